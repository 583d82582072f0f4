"""Images per second of ImageNet classifiers, beside their published top-1: `python tools/benchmarks/throughput.py`.

Any timm model can be named; the default is MambaVision and its peers, trained on ImageNet-1K alone. A model runs at the
size that its published top-1 is for, with random weights, in turn with all others, after once to warm up; images/s are
of the median time. Parameters and multiply-adds (linear and convolution layers; attention products beside them) are
counted; --rounds 0 counts alone. Branches that can be merged after training, FastViT's, are when a model is timed.
"""
import argparse
import platform
import statistics
from contextlib import nullcontext
from pathlib import Path

import timm
import torch
from counting import count
from machine import describe
from rich.console import Console
from rich.progress import Progress
from table import report
from timm.utils import reparameterize_model
from turns import times_in_turn

import mmmambavision.timm_models  # noqa: F401  (registers our models)
from mmmambavision.errors import UserError
from mmmambavision.terminal import run

# timm's name: size, published top-1 on ImageNet-1K, parameters in M, multiply-adds in G
PUBLISHED = {
    # arXiv 2407.08083, table 1, and the released models' pages
    'mambavision_tiny': (224, 82.3, 31.8, 4.4), 'mambavision_tiny2': (224, 82.7, 35.1, 5.1),
    'mambavision_small': (224, 83.3, 50.1, 7.5), 'mambavision_base': (224, 84.2, 97.7, 15.0),
    'mambavision_large': (224, 85.0, 227.9, 34.9), 'mambavision_large2': (224, 85.3, 241.5, 37.5),
    # arXiv 2201.03545
    'convnext_tiny': (224, 82.1, 28.6, 4.5), 'convnext_small': (224, 83.1, 50.2, 8.7),
    'convnext_base': (224, 83.8, 88.6, 15.4), 'convnext_large': (224, 84.3, 197.8, 34.4),
    # arXiv 2103.14030
    'swin_tiny_patch4_window7_224': (224, 81.3, 29, 4.5), 'swin_small_patch4_window7_224': (224, 83.0, 50, 8.7),
    'swin_base_patch4_window7_224': (224, 83.5, 88, 15.4),
    # arXiv 2111.09883
    'swinv2_tiny_window8_256': (256, 81.8, 28, 5.9), 'swinv2_small_window8_256': (256, 83.7, 50, 11.5),
    'swinv2_base_window8_256': (256, 84.2, 88, 20.3),
    # arXiv 2012.12877
    'deit_small_patch16_224': (224, 79.8, 22, 4.6), 'deit_base_patch16_224': (224, 81.8, 86, 17.5),
    # arXiv 2104.00298
    'tf_efficientnetv2_s': (384, 83.9, 22, 8.8),
    # arXiv 2303.14189
    'fastvit_sa24': (256, 82.6, 20.6, 3.8), 'fastvit_sa36': (256, 83.6, 30.4, 5.6),
    'fastvit_ma36': (256, 83.9, 42.7, 7.9),
    # arXiv 2207.05501
    'nextvit_small': (224, 82.5, 31.7, 5.8), 'nextvit_base': (224, 83.2, 44.8, 8.3),
    'nextvit_large': (224, 83.6, 57.8, 10.8),
    # arXiv 2405.07992
    'mambaout_tiny': (224, 82.7, 27, 4.5), 'mambaout_small': (224, 84.1, 48, 9.0),
    'mambaout_base': (224, 84.2, 85, 15.8),
}
PRETRAINED = {  # on ImageNet-21K before; arXiv 2407.08083 and the released models' pages
    'mambavision_base.in21k_ft_in1k': (224, 84.9, 97.7, 15.0),
    'mambavision_large.in21k_ft_in1k': (224, 86.1, 227.9, 34.9),
    'mambavision_large2.in21k_ft_in1k_512': (512, 87.3, 241.5, None),
    'mambavision_large3.in21k_ft_in1k_256': (256, 87.3, 739.6, 122.3),
    'mambavision_large3.in21k_ft_in1k_512': (512, 88.1, 739.6, None),
}
FAMILIES = ('mambavision', 'convnext', 'swinv2', 'swin', 'deit', 'tf_efficientnetv2', 'fastvit', 'nextvit', 'mambaout')
COLUMNS = dict(model='model', size='size', params='params M', published_params='published', layers='layers G',
               published_flops='published', attention='attention G', top1='top-1 published', images='images/s',
               ratio='time, ratio')


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', default=list(PUBLISHED), metavar='NAME', help='timm models')
    parser.add_argument('--batch', type=int, default=8, help='images at once')
    parser.add_argument('--rounds', type=int, default=5, help='how often each is timed; 0 counts alone')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    parser.add_argument('--csv', type=Path, help='file for the table')
    parser.add_argument('--plot', type=Path, help='picture of published top-1 against images/s')
    args = parser.parse_args(argv)
    if args.batch < 1 or args.rounds < 0:
        raise UserError('--batch must be at least 1, --rounds at least 0')
    for name in args.models:
        _, _, tag = name.partition('.')
        if not timm.is_model(name) or tag and not timm.is_model_pretrained(name):
            raise UserError(f"timm has no model '{name}'; timm.list_models() and list_pretrained() name them")
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise UserError(f'--device {args.device}: torch finds no GPU here')
    for file in filter(None, (args.csv, args.plot)):
        if not file.parent.is_dir():
            raise UserError(f'{file.parent}, the folder for {file.name}, does not exist')
    if args.plot and not (args.rounds and set(args.models) & PUBLISHED.keys()):
        raise UserError('--plot needs times (--rounds) and models of known top-1')
    return args


class Model:
    """A timm model of random weights on random images."""

    def __init__(self, name, args):
        # FastViT's published speed is of branches that are merged after training.
        self.model = reparameterize_model(timm.create_model(name).eval(), inplace=True).to(args.device)
        size = known(name)[0]
        self.images = torch.randn(args.batch, 3, size, size, device=args.device)
        self.device = torch.device(args.device)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16) if args.amp else nullcontext()

    def __call__(self):
        with torch.no_grad(), self.autocast:
            self.model(self.images)
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def known(name):
    """Size, published top-1, parameters and multiply-adds of a timm model, None for what is not known here."""
    figures = {**PUBLISHED, **PRETRAINED}.get(name)
    return figures or (timm.get_pretrained_cfg(name).input_size[-1], None, None, None)


def counts(name, size):
    """Parameters in M, and multiply-adds in G of layers and of attention products, of a timm model."""
    with torch.device('meta'):
        model = timm.create_model(name).eval()
        (layers, attention, _), _ = count(model, torch.empty(1, 3, size, size))
    return dict(params=sum(p.numel() for p in model.parameters()) / 1e6, layers=layers, attention=attention)


def measure(args, progress):
    """A row for every model, as a dict of COLUMNS."""
    task = progress.add_task('classifiers', total=len(args.models) * (args.rounds + 2 if args.rounds else 1))
    rows = []
    for name in args.models:
        size, top1, params, flops = known(name)
        rows.append(dict(model=name, size=size, top1=top1, published_params=params, published_flops=flops,
                         **counts(name, size)))
        progress.advance(task)
    if args.rounds:
        calls = {name: Model(name, args) for name in args.models}
        times = times_in_turn(calls, args.rounds, lambda: progress.advance(task))
        for row in rows:
            own = times[row['model']]
            row['images'] = args.batch / statistics.median(own)
            row['ratio'] = statistics.median(a / b for a, b in zip(own, times[args.models[0]]))
    return rows


def as_text(row, key):
    value = row.get(key)
    if value is None or isinstance(value, (str, int)):
        return '' if value is None else str(value)
    return f"{value:.{dict(params=2, layers=2, attention=2, ratio=2).get(key, 1)}f}"


def plot(rows, file, title):
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(8, 5), layout='constrained')
    for number, family in enumerate(FAMILIES):
        own = [row for row in rows if row['top1'] and family_of(row['model']) == family]
        if own:
            ours = family == 'mambavision'
            axis.plot([row['images'] for row in own], [row['top1'] for row in own], '*-' if ours else 'o-',
                      color='tab:red' if ours else f'C{number if number < 3 else number + 1}', label=family,
                      markersize=11 if ours else 5, linewidth=2 if ours else 1, zorder=3 if ours else 2)
    axis.set(xlabel='images/s (measured)', ylabel='ImageNet-1K top-1, % (published)', xscale='log', title=title)
    axis.title.set_fontsize(9)
    axis.xaxis.set_major_formatter('{x:g}')
    axis.xaxis.set_minor_formatter('{x:g}')
    axis.tick_params(axis='x', which='minor', labelsize=7)
    axis.grid(alpha=.3)
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def family_of(name):
    return next((family for family in FAMILIES if name.startswith(family)), None)


def main(argv=None):
    args = parse_args(argv)
    how = f"{describe(args.device)}; torch {torch.__version__}; timm {timm.__version__}; Python " \
          f"{platform.python_version()}; batch {args.batch}, {'bfloat16 autocast' if args.amp else 'float32'}, " \
          f'{args.rounds} rounds'
    print(how)
    with Progress(console=Console(stderr=True)) as progress:
        rows = measure(args, progress)
    report(rows, COLUMNS, as_text, args.markdown, args.csv)
    if args.plot:
        plot(rows, args.plot, how)


if __name__ == '__main__':
    run(main)
