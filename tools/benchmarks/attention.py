"""Compare our CPU kernel for attention with torch's kernel: `python tools/benchmarks/attention.py`.

The calls of the two kernels are interleaved. Times are medians. A ratio is torch's time divided by our time, so it is
above 1 if our kernel is faster. The numbers of keys are from tiny's last two levels on images of 800x1344 (4200 and
1050), 1024x1024 and 512x512, and smaller numbers. The command prints the number of keys from which our kernel is
faster, for the forward pass and with the backward pass.
"""
import argparse
from pathlib import Path

from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--keys', nargs='+', type=int, default=[256, 400, 512, 640, 784, 1024, 1050, 2048, 4096, 4200])
    parser.add_argument('--heads', type=int, default=8, help='default 8')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--head-size', type=int, default=40, help='default 40, as in tiny; small has 48, base 64')
    parser.add_argument('--dtype', nargs='+', default=['float32', 'bfloat16'], choices=('float32', 'bfloat16'))
    parser.add_argument('--rounds', type=int, default=9, help='timed calls of each kernel; default 9')
    parser.add_argument('--csv', type=Path, help='new file for the table')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    args = parser.parse_args(argv)
    if args.csv and args.csv.exists():
        raise UserError(f'{args.csv} exists already; name a new file')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.attention import compare
    compare(args)


if __name__ == '__main__':
    run(main)
