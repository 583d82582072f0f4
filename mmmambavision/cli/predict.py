"""Predict on images and videos.

INPUT is an image, a video, a folder of them or a pattern such as 'photos/*.jpg'. Boxes and masks of a detector or the
overlay of a segmentor are drawn into DIR under the names of the inputs; --json adds predictions.json in COCO's format,
and of a segmentor label maps (DIR/labels/NAME.png, pixels being class numbers). A released detector or segmentor, such
as hf://nvidia/cascade_mask_rcnn_mamba_vision_tiny_3x_coco, needs no --config.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from ..recipes import released_recipe
from .arguments import add_device, add_settings


def add_arguments(parser):
    parser.add_argument('inputs', nargs='*', metavar='INPUT', help='images, videos, folders or patterns')
    parser.add_argument('--config', help='config file; of a released checkpoint it follows from the name')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file, URL or hf://owner/repository')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write to; default %(default)s')
    parser.add_argument('--threshold', type=float, default=.3, help='boxes of a lower score are left out; default 0.3')
    parser.add_argument('--json', action='store_true', help='write numbers beside the pictures')
    add_device(parser)
    parser.add_argument('--web', action='store_true', help='open a page in the browser that takes pictures (gradio)')
    add_settings(parser)


def check(args):
    if bool(args.inputs) == args.web:
        raise UserError('name images, videos or folders to predict on, or give --web and none of them')
    if not 0 <= args.threshold <= 1:
        raise UserError(f'--threshold {args.threshold} must be between 0 and 1')
    args.config = args.config or released_recipe(args.checkpoint)
    return args


def run(args):
    from .work.predict import predict
    predict(args)


def main(argv=None):
    cli.run_command(__name__, argv)
