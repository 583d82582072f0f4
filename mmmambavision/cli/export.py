"""Export a model to an ONNX file.

Parts: the whole model (RGB images as loaded and resized, 0 to 255, to dets, labels and masks of one image, or to a
segmentor's logits); the backbone, and backbone and neck (normalised images to maps). The file takes any size unless
--static, and of all but detectors any batch.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from .arguments import add_settings

PARTS = ('model', 'neck', 'backbone')


def add_arguments(parser):
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file, URL or hf://owner/repository; default: random')
    parser.add_argument('--out', type=Path, required=True, help='new file, .onnx')
    parser.add_argument('--part', choices=PARTS, default='model')
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), default=(224, 320),
                        help='of the sample; default 224 320')
    parser.add_argument('--static', action='store_true', help='one image of that size and no other')
    parser.add_argument('--scan', choices=('loop-free', 'scan'), default='loop-free',
                        help="'scan' is ONNX's own Scan: a shorter file, a loop in the runtime")
    parser.add_argument('--opset', type=int, default=20)
    parser.add_argument('--half', action='store_true', help='large weights in float16: half the file')
    parser.add_argument('--check', action='store_true', help='run the file beside the network at four sizes')
    add_settings(parser)


def check(args):
    if args.out.suffix != '.onnx' or args.out.exists():
        raise UserError(f'--out {args.out} must name a new file that ends in .onnx')
    if not 18 <= args.opset <= 23:
        raise UserError(f'--opset {args.opset}: operators of 18 to 23 are known here; TensorRT reads up to 20')
    if min(args.size) < 64:
        raise UserError(f"--size {' '.join(map(str, args.size))}: sides of 64 pixels at least")
    return args


def run(args):
    from .work.export import write
    write(args)


def main(argv=None):
    cli.run_command(__name__, argv)
