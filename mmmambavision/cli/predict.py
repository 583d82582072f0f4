"""Predict on images and videos.

INPUT is an image, a video, a folder or a pattern such as 'photos/*.jpg'. The drawn predictions are written to the
folder OUT under the names of the inputs. --json adds predictions.json in COCO's format and, for a segmentor, label maps
(OUT/labels/NAME.png, one class number per pixel). A released detector or segmentor, for example
hf://nvidia/cascade_mask_rcnn_mamba_vision_tiny_3x_coco, needs no --config.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from ..recipes import released_recipe
from .arguments import add_device, add_settings


def add_arguments(parser):
    parser.add_argument('inputs', nargs='*', metavar='INPUT', help='images, videos, folders or patterns')
    parser.add_argument('--config', help='config file; not needed for a released checkpoint')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file, URL or hf://owner/repository')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='output folder; default %(default)s')
    parser.add_argument('--threshold', type=float, default=.3, help='minimum score of boxes; default 0.3')
    parser.add_argument('--json', action='store_true', help='also write predictions.json and label maps')
    parser.add_argument('--slice', type=int, metavar='PIXELS', help='predict on slices of this height and width, for '
                        'large images, and merge their boxes; only detectors')
    parser.add_argument('--overlap', type=float, metavar='SHARE',
                        help='overlap of neighbouring slices as a fraction of their size; default 0.2')
    add_device(parser)
    parser.add_argument('--web', action='store_true', help='open a web page for predictions (needs gradio)')
    add_settings(parser)


def check(args):
    if bool(args.inputs) == args.web:
        raise UserError('give either inputs (images, videos or folders) or --web')
    if not 0 <= args.threshold <= 1:
        raise UserError(f'--threshold {args.threshold} must be between 0 and 1')
    if args.slice is None and args.overlap is not None:
        raise UserError('--overlap is for slices. Also give --slice PIXELS')
    if args.slice is not None and args.slice < 1:
        raise UserError(f'--slice {args.slice} must be at least 1')
    args.overlap = .2 if args.overlap is None else args.overlap
    if not 0 <= args.overlap < 1:
        raise UserError(f'--overlap {args.overlap} must be at least 0 and below 1')
    args.config = args.config or released_recipe(args.checkpoint)
    return args


def run(args):
    from .work.predict import predict
    predict(args)


def main(argv=None):
    cli.run_command(__name__, argv)
