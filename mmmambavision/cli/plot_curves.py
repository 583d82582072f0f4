"""Plot the losses and metrics of a training run."""
from pathlib import Path

from .. import cli


def add_arguments(parser):
    parser.add_argument('work_dir', type=Path, help='work dir of tools/train.py')
    parser.add_argument('--out', type=Path, help='output picture; default WORK_DIR/curves.png')


def check(args):
    return args


def run(args):
    from .work.plot_curves import plot_curves
    plot_curves(args.work_dir, args.out or args.work_dir / 'curves.png')


def main(argv=None):
    cli.run_command(__name__, argv)
