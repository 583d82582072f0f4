"""The measurements of `speed.py`."""
import platform
import statistics
from functools import partial
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress

from mmmambavision.cli.arguments import device_of
from mmmambavision.terminal import show

from . import peers
from .measure import describe, report, times_in_turn
from .measured import Measured

COLUMNS = dict(model='model', size='H x W', params='params M', layers='layers G', attention='attention G',
               scan='scan G', forward='forward ms', images='images/s', forward_ratio='ratio', forward_memory='peak MiB',
               forward_amp='bfloat16 ms', forward_amp_ratio='ratio', train='train ms', train_ratio='ratio',
               train_memory='peak MiB', train_amp='bfloat16 ms', train_amp_ratio='ratio', box_ap='box AP')


def compare(args):
    """Measure with the arguments of speed.py and print the table, or print the published table."""
    args.device = device_of(args.device)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    if args.paper_table:
        from . import paper_table
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
             title='Hollow: whole-map windows, with the AP published for padded windows')
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
