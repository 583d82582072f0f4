"""Speed, memory and size of backbones and whole models: `python tools/benchmarks/speed.py swin-t convnext-t`.

A name is a config or a backbone of benchmarking/peers.py. Configs are measured as whole models. Images and weights are
random. mambavision-t has whole-map windows, mambavision-t-padded the released windows (112, 56), and
mambavision-t-balanced attention in windows of at most 32 x 32. Options follow a colon, for example
mambavision-t:window_size=64,32:scan_backend=reference.

Every model runs once as a warm-up. Then the models run interleaved (A B A B ...). Times are medians. A ratio is the
median over rounds of the ratio to the first model. Multiply-adds are counted without running the model: layers (linear
and convolution), attention (q k^T and weights times v) and scan (3 N + 2 per channel and step). Detectors are counted
with 1000 proposals and 100 mask regions. A training step is forward, backward and AdamW. The loss of a backbone is the
mean of its outputs. Peak memory is the memory allocated during a separate run in float32, without parameters and input.
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
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of every model; default 5')
    parser.add_argument('--train', action='store_true', help='also measure a training step')
    parser.add_argument('--amp', action='store_true', help='also measure everything under bfloat16 autocast')
    parser.add_argument('--fuse', action='store_true',
                        help='with batch norms folded into convolutions (mmcv.cnn.fuse_conv_bn)')
    parser.add_argument('--compile', action='store_true', help='with torch.compile')
    add_device(parser)
    parser.add_argument('--csv', type=Path, help='new file for the table')
    parser.add_argument('--markdown', action='store_true', help='print the table for a document')
    parser.add_argument('--plot', type=Path, help='new image: speed against published box AP or, with several sizes, '
                                                  'time and memory against pixels')
    parser.add_argument('--paper-table', action='store_true',
                        help='print only the published COCO table next to our counts')
    args = parser.parse_args(argv)
    for file in (args.csv, args.plot):
        if file and file.exists():
            raise UserError(f'{file} exists already; name a new file')
    if not args.models and not args.paper_table:
        raise UserError('nothing to measure: name configs or backbones, or give --paper-table; --help lists them')
    if args.fuse and args.train:
        raise UserError('--fuse is only for inference. Remove --train')
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
