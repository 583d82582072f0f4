"""Images per second of ImageNet classifiers, beside their published top-1: `python tools/benchmarks/throughput.py`.

Any timm model can be named; the default is MambaVision and its peers, trained on ImageNet-1K alone. A model runs at the
size that its published top-1 is for, with random weights, in turn with all others, after once to warm up; images/s are
of the median time. Parameters and multiply-adds (linear and convolution layers; attention products beside them) are
counted; --rounds 0 counts alone. Branches that can be merged after training, FastViT's, are when a model is timed.
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
    parser.add_argument('--rounds', type=int, default=5, help='how often each is timed; 0 counts alone')
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
        raise UserError('--plot needs times (--rounds) and models of known top-1')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.throughput import compare
    compare(args)


if __name__ == '__main__':
    run(main)
