"""Evaluate a checkpoint of a detector or a segmentor: `python tools/test.py CONFIG CHECKPOINT`.

CHECKPOINT may be a file that tools/export.py wrote, model.onnx: it runs in ONNX Runtime, the rest is the same.
"""
import argparse
from pathlib import Path

from ..errors import UserError
from .arguments import add_run


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_run(parser)
    parser.add_argument('checkpoint', help='checkpoint file, URL, hf://owner/repository, or FILE.onnx')
    parser.add_argument('--out', type=Path, help='new file for the predictions, .pkl')
    parser.add_argument('--show-dir', help='folder for pictures of predictions, in the run\'s folder unless absolute')
    parser.add_argument('--amp', action='store_true',
                        help='evaluate in mixed precision: float16 on a GPU, bfloat16 on a CPU')
    parser.add_argument('--tta', action='store_true',
                        help='test-time augmentation, by tta_model and tta_pipeline of the config')
    args = parser.parse_args(argv)
    if args.out and (args.out.suffix not in ('.pkl', '.pickle') or args.out.exists()):
        raise UserError(f'--out {args.out} must name a new file that ends in .pkl')
    return args


def main(argv=None):
    args = parse_args(argv)
    from .work.test import evaluate
    evaluate(args)
