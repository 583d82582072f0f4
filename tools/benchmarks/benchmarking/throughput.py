"""The measurements of `throughput.py`."""
import platform
import statistics
from contextlib import nullcontext

import timm
import torch
from rich.console import Console
from rich.progress import Progress
from timm.utils import reparameterize_model

import mmmambavision.timm_models  # noqa: F401  (registers our models)
from mmmambavision.cli.arguments import device_of
from mmmambavision.errors import UserError

from .measure import count, describe, report, times_in_turn
from .published import PRETRAINED, PUBLISHED

FAMILIES = ('mambavision', 'convnext', 'swinv2', 'swin', 'deit', 'tf_efficientnetv2', 'fastvit', 'nextvit', 'mambaout')
COLUMNS = dict(model='model', size='size', params='params M', published_params='published', layers='layers G',
               published_flops='published', attention='attention G', top1='top-1 published', images='images/s',
               ratio='time, ratio')


def compare(args):
    """Measure with the arguments of throughput.py, and print the table.

    Raises:
        UserError: timm does not have a model, or the device is not available.
    """
    for name in args.models:
        _, _, tag = name.partition('.')
        if not timm.is_model(name) or (tag and not timm.is_model_pretrained(name)):
            raise UserError(f"timm has no model '{name}'. timm.list_models() and list_pretrained() list all models")
    args.device = device_of(args.device)
    how = f"{describe(args.device)}; torch {torch.__version__}; timm {timm.__version__}; Python " \
          f"{platform.python_version()}; batch {args.batch}, {'bfloat16 autocast' if args.amp else 'float32'}, " \
          f'{args.rounds} rounds'
    print(how)
    with Progress(console=Console(stderr=True)) as progress:
        rows = measure(args, progress)
    report(rows, COLUMNS, as_text, args.markdown, args.csv)
    if args.plot:
        plot(rows, args.plot, how)


class Model:
    """A timm model with random weights on random images."""

    def __init__(self, name, args):
        # FastViT merges branches after training. Its published speed is for merged branches.
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
    """Size, published top-1, parameters and multiply-adds of a timm model. Unknown values are None."""
    figures = {**PUBLISHED, **PRETRAINED}.get(name)
    return figures or (timm.get_pretrained_cfg(name).input_size[-1], None, None, None)


def counts(name, size):
    """Parameters in M, and multiply-adds in G of layers and of attention products, for a timm model."""
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
