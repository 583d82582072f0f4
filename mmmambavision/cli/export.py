"""Export a model to an ONNX file.

The part `model` takes resized RGB images, 0 to 255. A detector returns dets, labels and masks of one image. A segmentor
returns logits. The parts `backbone` and `neck` take normalised images and return maps; `neck` includes the backbone.
Without --static, the file takes any image size and, except for detectors, any batch size.
With --int8, FILE.onnx has QDQ nodes, and FILE.xml is in OpenVINO's format.
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
    parser.add_argument('--out', type=Path, required=True, help='new file, .onnx; with --int8 also .xml for OpenVINO')
    parser.add_argument('--part', choices=PARTS, default='model')
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), default=(224, 320),
                        help='size of the sample image; default 224 320')
    parser.add_argument('--static', action='store_true', help='fix the image size, with a batch of one')
    parser.add_argument('--scan', choices=('loop-free', 'scan'), default='loop-free',
                        help="'scan' uses ONNX's Scan operator: a smaller file, but a loop in the runtime")
    parser.add_argument('--opset', type=int, default=20)
    parser.add_argument('--half', action='store_true', help='store large weights in float16: half the file size')
    parser.add_argument('--int8', metavar='IMAGES', help='quantise to INT8. IMAGES is a folder of images like those to '
                                                         'predict on; up to 300 are used')
    parser.add_argument('--check', action='store_true', help='compare the file with the network at four image sizes')
    add_settings(parser)


def check(args):
    suffixes = ['.onnx', '.xml'] if args.int8 else ['.onnx']
    files = [args.out, *([args.out.with_suffix('.bin')] if args.out.suffix == '.xml' else [])]
    if args.out.suffix not in suffixes or any(file.exists() for file in files):
        raise UserError(f"--out {args.out} must name a new file that ends in {' or '.join(suffixes)}")
    if args.int8 and args.part != 'model':
        raise UserError(f'--int8 works only with --part model, not with --part {args.part}')
    if args.int8 and args.half:
        raise UserError('--int8 and --half exclude each other: a file has weights in INT8 or in float16')
    if args.int8 and args.check:
        raise UserError('--check compares single values, and INT8 changes them. Compare the AP or mIoU instead: '
                        f'tools/test.py {args.config} {args.out}')
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
