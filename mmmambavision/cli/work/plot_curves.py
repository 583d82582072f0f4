"""Plot the losses and metrics of a training run."""
import json
from pathlib import Path

from matplotlib.figure import Figure

from ...errors import UserError

METRICS = {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP', 'mIoU': 'mIoU (%)', 'accuracy/top1': 'top-1 (%)'}


def plot_curves(work_dir, out):
    """Plot the runs of a work dir to a file.

    Raises:
        UserError: the work dir has no training log.
    """
    training, validation = read_scalars(work_dir)
    if not training:
        raise UserError(f'no training log (*/vis_data/scalars.json) in {work_dir}')
    plot(training, validation).savefig(out, dpi=120)
    print(out)


def read_scalars(work_dir):
    """The log records of all runs in a work dir, in order, as (training, validation)."""
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [r for r in records if 'loss' in r], [r for r in records if METRICS.keys() & r.keys()]


def plot(training, validation):
    """A figure with two panels: losses and metrics."""
    figure = Figure(figsize=(11, 4.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    iterations = [r.get('iter', r['step']) for r in training]
    for key in sorted({key for r in training for key in r if 'loss' in key}, key=lambda key: (key != 'loss', key)):
        left.plot(iterations, [r.get(key) for r in training], label=key, lw=2 if key == 'loss' else 1)
    left.set(xlabel='iteration', ylabel='loss', yscale='log', title='training loss')
    left.legend(fontsize=6, ncols=4, loc='upper center', bbox_to_anchor=(.5, -.14))
    for key, name in METRICS.items():
        points = [(r['step'], r[key]) for r in validation if key in r]
        if points:
            right.plot(*zip(*points), marker='o', label=name)
            right.annotate(f'{points[-1][1]:.3g}', points[-1], textcoords='offset points', xytext=(0, 6), ha='center')
    right.set(xlabel='epoch (or iteration)', title='held-out metrics')
    right.margins(y=0.12)
    right.set_ylim(bottom=0)
    if right.has_data():
        right.legend()
    for axes in (left, right):
        axes.grid(alpha=.3)
    return figure
