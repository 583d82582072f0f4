"""Speed, memory and size of backbones and whole models, in turn: `python tools/benchmarks/speed.py swin-t convnext-t`.

Names are configs, measured whole on random images with random weights, and the backbones of peers.py beside this file.
MambaVision has whole-map windows or, `-padded`, the released (112, 56) or, `-balanced`, attention in windows of at most
32 x 32. Options follow a colon, as in mambavision-t:window_size=64,32:scan_backend=reference.

Every model is run once to warm up, then all in turn (A B A B ...). Times are medians; ratios are medians of each
round's ratio to the first model. Multiply-adds are counted without running: layers (linear and convolution), attention
(q k^T and weights v), scan (3 N + 2 per channel and step); of detectors with 1000 proposals and 100 mask regions. A
training step is forward, backward and AdamW, the loss of a backbone being the mean of its outputs. Peak memory is what
is allocated on top of parameters and input while it runs, measured in a pass of its own, in float32.
"""
import argparse
import platform
import statistics
from functools import partial
from pathlib import Path

import peers
import torch
from machine import describe
from measured import Measured
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress
from table import report
from turns import times_in_turn

from mmmambavision.errors import UserError
from mmmambavision.terminal import run, show

COLUMNS = dict(model='model', size='H x W', params='params M', layers='layers G', attention='attention G',
               scan='scan G', forward='forward ms', images='images/s', forward_ratio='ratio', forward_memory='peak MiB',
               forward_amp='bfloat16 ms', forward_amp_ratio='ratio', train='train ms', train_ratio='ratio',
               train_memory='peak MiB', train_amp='bfloat16 ms', train_amp_ratio='ratio', box_ap='box AP')


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', metavar='CONFIG_OR_BACKBONE', help=', '.join(peers.BACKBONES))
    parser.add_argument('--size', nargs='+', default=['800x1344'], metavar='HxW',
                        help='default 800x1344; several for a scaling table')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5, help='counted runs of every model; default 5')
    parser.add_argument('--train', action='store_true', help='measure a training step, too')
    parser.add_argument('--amp', action='store_true', help='measure everything under bfloat16 autocast, too')
    parser.add_argument('--fuse', action='store_true',
                        help='with batch norms folded into convolutions (mmcv.cnn.fuse_conv_bn)')
    parser.add_argument('--compile', action='store_true', help='with torch.compile')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='default: a GPU if there is one')
    parser.add_argument('--csv', type=Path, help='new file for the table')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    parser.add_argument('--plot', type=Path, help='new image: speed against published box AP or, with several sizes, '
                                                  'time and memory against pixels')
    parser.add_argument('--paper-table', action='store_true',
                        help='print the published COCO table beside our counts and stop')
    args = parser.parse_args(argv)
    for file in (args.csv, args.plot):
        if file and file.exists():
            raise UserError(f'{file} exists already; name a new file')
    if not args.models and not args.paper_table:
        raise UserError('nothing to measure: name configs or backbones, or give --paper-table; --help lists them')
    if args.fuse and args.train:
        raise UserError('--fuse is for inference: leave out --train')
    for model in args.models:
        if not Path(model).is_file():
            peers.parse(model)
    try:
        args.sizes = [tuple(int(side) for side in size.split('x')) for size in args.size]
        assert all(len(size) == 2 and min(size) > 0 for size in args.sizes)
    except (ValueError, AssertionError):
        raise UserError(f"--size {' '.join(args.size)}: write sizes as HEIGHTxWIDTH, e.g. 800x1344") from None
    return args


def measure(args, size, progress):
    """A row for every model at one size, as a dict of COLUMNS."""
    passes = ('forward', 'train') if args.train else ('forward',)
    kinds = [name + suffix for name in passes for suffix in (('', '_amp') if args.amp else ('',))]
    task = progress.add_task(f'{size[0]}x{size[1]}',
                             total=len(args.models) * (2 + len(kinds) * (args.rounds + 1) + len(passes)))
    step = partial(progress.advance, task)
    models, rows = {}, []
    for name in args.models:
        models[name] = Measured(name, args.batch, size, args.device, args.compile, args.fuse)
        step()
        rows.append(dict(model=Path(name).stem if Path(name).is_file() else name, size=f'{size[0]}x{size[1]}',
                         box_ap=peers.published_box_ap(name), **models[name].counts()))
        step()
    calls = {(name, kind): partial(getattr(model, kind.removesuffix('_amp')), kind.endswith('_amp'))
             for name, model in models.items() for kind in kinds}
    times = times_in_turn(calls, args.rounds, step)
    for row, (name, model) in zip(rows, models.items()):
        for kind in kinds:
            row[kind] = 1e3 * statistics.median(times[name, kind])
            row[f'{kind}_ratio'] = statistics.median(
                own / first for own, first in zip(times[name, kind], times[args.models[0], kind]))
        for kind in passes:
            row[f'{kind}_memory'] = model.peak_memory(getattr(model, kind)) / 2 ** 20
            step()
        row['images'] = 1e3 * args.batch / row['forward']
    return rows


def as_text(row, key):
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value or ''
    decimals = 2 if key in ('params', 'images', 'scan') or 'ratio' in key else 0 if 'memory' in key else 1
    return f'{value:.{decimals}f}'


def plot_speed(rows, file):
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator
    figure, axis = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for row in rows:
        if row['box_ap']:
            ours = 'mambavision' in row['model']
            axis.plot(row['images'], row['box_ap'], 'D' if ours else 'o', color='tab:red' if ours else 'tab:blue',
                      fillstyle='none' if ours and not row['model'].endswith('-padded') else 'full')
            axis.annotate(row['model'], (row['images'], row['box_ap']), textcoords='offset points',
                          xytext=(5, 5 if ours else -10), fontsize=7)
    axis.set(xlabel=f"backbone, images/s at {rows[0]['size']} (measured)", ylabel='COCO box AP (published)',
             title='Hollow: whole-map windows, at the AP published for padded ones')
    axis.title.set_fontsize(9)
    axis.set_xscale('log')
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter('{x:g}')
    axis.xaxis.set_minor_formatter('')
    axis.margins(.15)
    figure.savefig(file, dpi=120)


def plot_scaling(rows, file):
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout='constrained')
    for model in dict.fromkeys(row['model'] for row in rows):
        own = [row for row in rows if row['model'] == model]
        pixels = [int(row['size'].split('x')[0]) * int(row['size'].split('x')[1]) / 1e6 for row in own]
        axes[0].plot(pixels, [row['forward'] / p for row, p in zip(own, pixels)], 'o-', label=model)
        axes[1].plot(pixels, [row['forward_memory'] for row in own], 'o-', label=model)
    axes[0].set(xlabel='megapixels', ylabel='forward, ms per megapixel', ylim=(0, None))
    axes[1].set(xlabel='megapixels', ylabel='forward, peak MiB', ylim=(0, None))
    axes[0].legend()
    figure.savefig(file, dpi=120)


def main(argv=None):
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    if args.paper_table:
        import paper_table
        return show(paper_table.COLUMNS, list(paper_table.rows()), args.markdown)
    how = ['float32 and bfloat16 autocast' if args.amp else 'float32', 'compiled' if args.compile else '',
           'batch norms folded' if args.fuse else '', f'{args.rounds} rounds']
    print(f'{describe(args.device)}; torch {torch.__version__}; Python {platform.python_version()}; '
          f"batch {args.batch}, {', '.join(filter(None, how))}")
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        for size in args.sizes:
            rows += measure(args, size, progress)
    report(rows, COLUMNS, as_text, args.markdown, args.csv)
    if args.plot:
        (plot_scaling if len(args.sizes) > 1 else plot_speed)(rows, args.plot)


if __name__ == '__main__':
    run(main)
