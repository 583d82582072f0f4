"""Time, memory and bandwidth of every implementation of the selective scan: `python tools/benchmarks/scan.py`.

The shapes are the shapes of the recipes. The bandwidth counts the bytes that any implementation must move. Forward, it
reads each input and writes each output once. Forward and backward, it moves three times as many bytes. The bandwidth is
a percentage of the bandwidth of a plain copy on the same device in the same run. Kept memory is the memory that the
forward pass stores for the backward pass, without the inputs.
"""
import argparse
from pathlib import Path

from benchmarking.names import SHAPES

from mmmambavision.errors import UserError
from mmmambavision.terminal import run

BACKENDS = ('reference', 'chunked', 'cpu', 'triton', 'mamba_ssm', 'step loop')


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--backends', nargs='+', choices=BACKENDS,
                        help="default: all available except 'step loop'")
    parser.add_argument('--batch', nargs='+', type=int, default=[1, 2, 16], help='images per batch; default 1 2 16')
    parser.add_argument('--dtype', nargs='+', default=['float32', 'bfloat16'],
                        choices=('float32', 'bfloat16', 'float16'))
    parser.add_argument('--shapes', nargs='+', default=list(SHAPES), choices=SHAPES, metavar='SHAPE',
                        help='some of: %(choices)s')
    parser.add_argument('--layout', default='channels-last', choices=('channels-last', 'sequence-last'),
                        help='memory layout of the inputs; the mixer uses channels-last')
    parser.add_argument('--seconds', type=float, default=1., help='seconds for each measurement')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    parser.add_argument('--csv', type=Path, help='new file for the table')
    args = parser.parse_args(argv)
    if args.csv and args.csv.exists():
        raise UserError(f'{args.csv} exists already; name a new file')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.scan import measure_all
    measure_all(args, {name: SHAPES[name] for name in args.shapes})


if __name__ == '__main__':
    run(main)
