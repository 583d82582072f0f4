"""Speed, memory and size of backbones and whole models, in turn: `python tools/benchmarks/speed.py swin-t convnext-t`.

Names are configs, measured whole on random images with random weights, and the backbones of benchmarking/peers.py.
MambaVision has whole-map windows or, `-padded`, the released (112, 56) or, `-balanced`, attention in windows of at most
32 x 32. Options follow a colon, as in mambavision-t:window_size=64,32:scan_backend=reference.

Every model is run once to warm up, then all in turn (A B A B ...). Times are medians; ratios are medians of each
round's ratio to the first model. Multiply-adds are counted without running: layers (linear and convolution), attention
(q k^T and weights v), scan (3 N + 2 per channel and step); of detectors with 1000 proposals and 100 mask regions. A
training step is forward, backward and AdamW, the loss of a backbone being the mean of its outputs. Peak memory is what
is allocated on top of parameters and input while it runs, measured in a pass of its own, in float32.
"""
import argparse
from pathlib import Path

from benchmarking.names import NAMES, parse

from mmmambavision.cli.arguments import add_device
from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', metavar='CONFIG_OR_BACKBONE', help=', '.join(NAMES))
    parser.add_argument('--size', nargs='+', default=['800x1344'], metavar='HxW',
                        help='default 800x1344; several for a scaling table')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5, help='counted runs of every model; default 5')
    parser.add_argument('--train', action='store_true', help='measure a training step, too')
    parser.add_argument('--amp', action='store_true', help='measure everything under bfloat16 autocast, too')
    parser.add_argument('--fuse', action='store_true',
                        help='with batch norms folded into convolutions (mmcv.cnn.fuse_conv_bn)')
    parser.add_argument('--compile', action='store_true', help='with torch.compile')
    add_device(parser)
    parser.add_argument('--csv', type=Path, help='new file for the table')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    parser.add_argument('--plot', type=Path, help='new image: speed against published box AP or, with several sizes, '
                                                  'time and memory against pixels')
    parser.add_argument('--paper-table', action='store_true',
                        help='print the published COCO table beside our counts and stop')
    args = parser.parse_args(argv)
    for file in (args.csv, args.plot):
        if file and file.exists():
            raise UserError(f'{file} exists already; name a new file')
    if not args.models and not args.paper_table:
        raise UserError('nothing to measure: name configs or backbones, or give --paper-table; --help lists them')
    if args.fuse and args.train:
        raise UserError('--fuse is for inference: leave out --train')
    for model in args.models:
        if not Path(model).is_file():
            parse(model)
    try:
        args.sizes = [tuple(int(side) for side in size.split('x')) for size in args.size]
        assert all(len(size) == 2 and min(size) > 0 for size in args.sizes)
    except (ValueError, AssertionError):
        raise UserError(f"--size {' '.join(args.size)}: write sizes as HEIGHTxWIDTH, e.g. 800x1344") from None
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.speed import compare
    compare(args)


if __name__ == '__main__':
    run(main)
