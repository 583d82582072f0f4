"""Time of every implementation of the mixer's depthwise convolution with SiLU: `python tools/benchmarks/depthwise.py`.

The shapes are the shapes of the recipes, as in scan.py. Times are medians.
"""
import argparse

from benchmarking.names import SHAPES

from mmmambavision.terminal import run

BACKENDS = ('torch', 'shifted', 'triton')


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--backends', nargs='+', choices=BACKENDS, help='default: all available')
    parser.add_argument('--batch', nargs='+', type=int, default=[2], help='images per batch; default 2')
    parser.add_argument('--dtype', nargs='+', default=['float32', 'float16'],
                        choices=('float32', 'bfloat16', 'float16'))
    parser.add_argument('--shapes', nargs='+', default=list(SHAPES), choices=SHAPES, metavar='SHAPE',
                        help='some of: %(choices)s')
    parser.add_argument('--seconds', type=float, default=.2, help='seconds for each measurement')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.depthwise import measure_all
    measure_all(args, {name: SHAPES[name] for name in args.shapes})


if __name__ == '__main__':
    run(main)
