"""Slim a checkpoint to its weights: `python tools/convert_checkpoint.py CHECKPOINT OUT.safetensors` (or OUT.pth).

Detectors and segmentors keep all their weights and classifiers those of their backbone, under the names of this
package; optimizers, logs and arguments go. OUT.pth is mmengine's form; both load as any checkpoint does.
"""
import argparse
from pathlib import Path

from ..errors import UserError


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='file, URL or hf://owner/repository')
    parser.add_argument('out', type=Path, help='new file, .safetensors or .pth')
    args = parser.parse_args(argv)
    if args.out.suffix not in ('.safetensors', '.pth') or args.out.exists():
        raise UserError(f'{args.out} must be a new file that ends in .safetensors or .pth')
    return args


def main(argv=None):
    args = parse_args(argv)
    from .work.convert_checkpoint import convert
    convert(args.checkpoint, args.out)
