"""Evaluate a checkpoint of a detector, a segmentor or a classifier.

CHECKPOINT may also be an exported file, model.onnx. It runs in ONNX Runtime; everything else is the same.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from .arguments import add_run


def add_arguments(parser):
    add_run(parser)
    parser.add_argument('checkpoint', help='checkpoint file, URL, hf://owner/repository, or FILE.onnx')
    parser.add_argument('--out', type=Path, help='new file for the predictions, .pkl')
    parser.add_argument('--show-dir', help='folder for pictures of predictions, in the run\'s folder unless absolute')
    parser.add_argument('--amp', action='store_true',
                        help='evaluate in mixed precision: float16 on a GPU, bfloat16 on a CPU')
    parser.add_argument('--tta', action='store_true',
                        help='test-time augmentation, by tta_model and tta_pipeline of the config')


def check(args):
    if args.out and (args.out.suffix not in ('.pkl', '.pickle') or args.out.exists()):
        raise UserError(f'--out {args.out} must name a new file that ends in .pkl')
    return args


def run(args):
    from .work.test import evaluate
    evaluate(args)


def main(argv=None):
    cli.run_command(__name__, argv)
