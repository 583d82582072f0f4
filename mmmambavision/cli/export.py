"""Export a model to an ONNX file.

The part `model` takes resized RGB images, 0 to 255. A detector returns dets, labels and masks of one image. A segmentor
returns logits. The parts `backbone` and `neck` take normalised images and return maps; `neck` includes the backbone.
Without --static, the file takes any image size and, except for detectors, any batch size.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from .arguments import add_settings

PARTS = ('model', 'neck', 'backbone')


def add_arguments(parser):
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?',
                        help='checkpoint file, URL or hf://owner/repository; default: random weights')
    parser.add_argument('--out', type=Path, required=True, help='new file, .onnx')
    parser.add_argument('--part', choices=PARTS, default='model')
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), default=(224, 320),
                        help='size of the sample image; default 224 320')
    parser.add_argument('--static', action='store_true', help='fix the image size, with a batch of one')
    parser.add_argument('--scan', choices=('loop-free', 'scan'), default='loop-free',
                        help="'scan' uses ONNX's Scan operator: a smaller file, but a loop in the runtime")
    parser.add_argument('--opset', type=int, default=20)
    parser.add_argument('--half', action='store_true', help='store large weights in float16: half the file size')
    parser.add_argument('--check', action='store_true', help='compare the file with the network at four image sizes')
    add_settings(parser)


def check(args):
    if args.out.suffix != '.onnx' or args.out.exists():
        raise UserError(f'--out {args.out} must name a new file that ends in .onnx')
    if not 18 <= args.opset <= 23:
        raise UserError(f'--opset {args.opset} must be from 18 to 23. TensorRT supports up to 20')
    if min(args.size) < 64:
        raise UserError(f"--size {' '.join(map(str, args.size))}: both sides must be at least 64 pixels")
    return args


def run(args):
    from .work.export import write
    write(args)


def main(argv=None):
    cli.run_command(__name__, argv)
