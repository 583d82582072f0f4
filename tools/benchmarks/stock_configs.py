"""Build and run the configs that mmdet and mmseg ship: `python tools/benchmarks/stock_configs.py --out FOLDER`.

Each model is built with random weights and computes its losses and one prediction on two small random images. The table
says which configs work, and why the others do not. Results are kept in FOLDER, so an interrupted run goes on where it
stopped. With --families, one ResNet-50 config of each family runs with a small MambaVision in place of its backbone.
"""
import argparse
from pathlib import Path

from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='folder for the results')
    parser.add_argument('--package', nargs='+', choices=('mmdet', 'mmseg'), default=['mmdet', 'mmseg'])
    parser.add_argument('--only', default='', metavar='PATTERN', help='regular expression for the names of configs')
    parser.add_argument('--sample', type=int, metavar='N', help='draw N of the configs')
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw and of the inputs; default 0')
    parser.add_argument('--families', action='store_true', help='MambaVision in one ResNet-50 config of each family')
    parser.add_argument('--processes', type=int, choices=(1, 2), default=1,
                        help='2: train with DistributedDataParallel, for --families; default 1')
    parser.add_argument('--limit', type=int, default=180, metavar='SECONDS', help='time for a config; default 180')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    args = parser.parse_args(argv)
    if args.processes > 1 and not args.families:
        raise UserError('--processes 2 needs --families. Other models are not trained')
    if args.sample is not None and args.sample < 1:
        raise UserError('--sample: give a number of configs above 0')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.stock_configs import run_all
    run_all(args)


if __name__ == '__main__':
    run(main)
