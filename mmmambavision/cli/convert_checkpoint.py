"""Write the weights of a checkpoint to a smaller file.

Detectors and segmentors keep all their weights, classifiers keep those of their backbone, under the names of this
package. The optimizer's state, logs and arguments are left out. OUT.pth is in mmengine's format. Both formats load like
any checkpoint.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError


def add_arguments(parser):
    parser.add_argument('checkpoint', help='file, URL or hf://owner/repository')
    parser.add_argument('out', type=Path, help='new file, .safetensors or .pth')


def check(args):
    if args.out.suffix not in ('.safetensors', '.pth') or args.out.exists():
        raise UserError(f'{args.out} must be a new file that ends in .safetensors or .pth')
    return args


def run(args):
    from .work.convert_checkpoint import convert
    convert(args.checkpoint, args.out)


def main(argv=None):
    cli.run_command(__name__, argv)
