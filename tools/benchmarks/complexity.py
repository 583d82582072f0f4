"""Parameters and multiply-adds of configs: `python tools/benchmarks/complexity.py configs/*.py`.

The models are on the meta device, so nothing is computed. Only the heads of DETRs and Mask2Former run with values.
Detectors are counted as in the published tables, with 1000 proposals through every box head and 100 regions through
every mask head. Segmentors are counted without their auxiliary head. The matrix products of attention (q k^T and
weights times v) and the scans (3 N + 2 multiply-adds per channel and step) have separate columns, because published
FLOPs do not include them.
"""
import argparse
from pathlib import Path

from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', type=Path, help='config files')
    parser.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help='input size for all configs')
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
