"""Attention by our own CPU kernel beside torch's: `python tools/benchmarks/attention.py`.

The two take turns; times are medians, ratios are torch's time over ours, above 1 where ours is faster. Lengths are
those of tiny's levels 3 and 4 on images of 800x1344 (4200 and 1050), 1024x1024 and 512x512, and shorter ones, to find
the border from which on the kernel is the faster one, forward and with the backward pass.
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
    parser.add_argument('--head-size', type=int, default=40, help='default 40, of tiny; small has 48, base 64')
    parser.add_argument('--dtype', nargs='+', default=['float32', 'bfloat16'], choices=('float32', 'bfloat16'))
    parser.add_argument('--rounds', type=int, default=9, help='counted calls of each; default 9')
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
