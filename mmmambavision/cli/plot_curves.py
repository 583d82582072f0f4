"""Plot the losses and metrics that a training run logged: `python tools/plot_curves.py WORK_DIR`."""
import argparse
from pathlib import Path


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work dir of tools/train.py')
    parser.add_argument('--out', type=Path, help='picture to write; default WORK_DIR/curves.png')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from .work.plot_curves import plot_curves
    plot_curves(args.work_dir, args.out or args.work_dir / 'curves.png')
