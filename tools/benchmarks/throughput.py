"""Images per second and published top-1 of ImageNet classifiers: `python tools/benchmarks/throughput.py`.

A name is any timm model. The default is MambaVision and its peers, trained only on ImageNet-1K. A model runs with
random weights at the image size of its published top-1. After one warm-up run, all models run interleaved. Images/s are
computed from the median time. The command counts parameters and multiply-adds (linear and convolution layers, and
separately the matrix products of attention). --rounds 0 only counts. FastViT's branches are merged before the timing.
"""
import argparse
from pathlib import Path

from benchmarking.published import PUBLISHED

from mmmambavision.cli.arguments import add_device
from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', default=list(PUBLISHED), metavar='NAME', help='timm models')
    parser.add_argument('--batch', type=int, default=8, help='images at once')
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each model; 0: only count')
    add_device(parser)
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    parser.add_argument('--csv', type=Path, help='file for the table')
    parser.add_argument('--plot', type=Path, help='picture of published top-1 against images/s')
    args = parser.parse_args(argv)
    if args.batch < 1 or args.rounds < 0:
        raise UserError('--batch must be at least 1, --rounds at least 0')
    for file in filter(None, (args.csv, args.plot)):
        if not file.parent.is_dir():
            raise UserError(f'{file.parent}, the folder for {file.name}, does not exist')
    if args.plot and not (args.rounds and set(args.models) & PUBLISHED.keys()):
        raise UserError('--plot needs times (--rounds above 0) and models with a published top-1')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.throughput import compare
    compare(args)


if __name__ == '__main__':
    run(main)
