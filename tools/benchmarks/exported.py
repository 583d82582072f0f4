"""Accuracy, time and size of exported files: `python tools/benchmarks/exported.py CONFIG model.onnx model_int8.onnx`.

Each file is evaluated on the config's test images as by tools/test.py. FILE.onnx runs in ONNX Runtime and in OpenVINO,
and FILE.xml only in OpenVINO. Then all of them predict the same images in turn, and the times are medians.
"""
import argparse
from pathlib import Path

from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE', help='exported files, .onnx or .xml')
    parser.add_argument('--rounds', type=int, default=20, help='timed images; default 20')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/exported'), help='folder for logs')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    args = parser.parse_args(argv)
    for file in args.files:
        if not file.is_file() or file.suffix not in ('.onnx', '.xml'):
            raise UserError(f'{file} is not a file that ends in .onnx or .xml')
    if args.rounds < 1:
        raise UserError(f'--rounds {args.rounds} must be at least 1')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.exported import compare
    compare(args)


if __name__ == '__main__':
    run(main)
