"""Evaluate a checkpoint of a detector, a segmentor or a classifier.

CHECKPOINT can also be an exported file. model.onnx runs in ONNX Runtime, and model.xml in OpenVINO.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from .arguments import add_run


def add_arguments(parser):
    add_run(parser)
    parser.add_argument('checkpoint', help='checkpoint file, URL, hf://owner/repository, FILE.onnx or FILE.xml')
    parser.add_argument('--out', type=Path, help='new .pkl file for the predictions')
    parser.add_argument('--show-dir', help="folder for drawn predictions; a relative path is inside the run's folder")
    parser.add_argument('--amp', action='store_true',
                        help='evaluate in mixed precision: float16 on a GPU, bfloat16 on a CPU')
    parser.add_argument('--tta', action='store_true',
                        help='test-time augmentation with tta_model and tta_pipeline of the config')


def check(args):
    if args.out and (args.out.suffix not in ('.pkl', '.pickle') or args.out.exists()):
        raise UserError(f'--out {args.out} must name a new file that ends in .pkl')
    return args


def run(args):
    from .work.test import evaluate
    evaluate(args)


def main(argv=None):
    cli.run_command(__name__, argv)
