"""Parameters and multiply-adds of configs: `python tools/benchmarks/complexity.py configs/*.py`. Nothing is computed,
but for the heads of DETRs and of Mask2Former.

Detectors are counted as in the published tables, 1000 proposals through every box head and 100 regions through every
mask head; segmentors without their auxiliary head. Attention products (q k^T and weights v) and scans (3 N + 2
multiply-adds per channel and step) have columns of their own, since published figures leave them out.
"""
import argparse
from pathlib import Path

from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', type=Path, help='config files')
    parser.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help='input size for all of them')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    args = parser.parse_args(argv)
    for path in args.configs:
        if not path.is_file():
            raise UserError(f'config not found: {path}')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.complexity import count_all
    count_all(args.configs, args.size, args.markdown)


if __name__ == '__main__':
    run(main)
