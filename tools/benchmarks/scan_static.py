"""Statistics of the compiled Triton kernels, without a GPU: `python tools/benchmarks/scan_static.py`.

The table has all kernels of the scan and of the depthwise convolution, for every target GPU. It gives registers per
thread, spilled bytes, shared memory, and instructions per thread for each channel, step and state, counted in the
kernel's longest loop. Times are estimates for the shape of --shape. A time is the larger of two numbers: instructions
divided by the GPU's issue rate, and bytes divided by its bandwidth. It ignores latency, so it is a lower limit.
"""
import argparse
from pathlib import Path

from mmmambavision.terminal import run

TARGETS = (75, 80, 86, 89, 90, 100, 120)  # compute capabilities times ten


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--targets', nargs='+', type=int, default=[80, 90], choices=TARGETS, metavar='SM',
                        help='some of: %(choices)s; default 80 90')
    parser.add_argument('--dtype', nargs='+', default=['float32', 'bfloat16'], choices=('float32', 'bfloat16'))
    parser.add_argument('--shape', nargs=3, type=int, default=(2, 160, 50 * 84), metavar=('B', 'D', 'L'),
                        help='shape for the estimated times; default 2 160 4200')
    parser.add_argument('--json', type=Path, help='file for the statistics')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.scan_static import show_all
    show_all(args.targets, args.dtype, args.shape, args.markdown, args.json)


if __name__ == '__main__':
    run(main)
