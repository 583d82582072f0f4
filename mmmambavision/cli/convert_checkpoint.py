"""Write the weights of a checkpoint to a smaller file.

A detector or segmentor keeps all weights. A classifier keeps only the backbone's weights, under the names of this
package. Optimizer state, logs and arguments are removed. OUT.pth has mmengine's format. Both formats load like any
checkpoint.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError


def add_arguments(parser):
    parser.add_argument('checkpoint', help='file, URL or hf://owner/repository')
    parser.add_argument('out', type=Path, help='new .safetensors or .pth file')


def check(args):
    if args.out.suffix not in ('.safetensors', '.pth') or args.out.exists():
        raise UserError(f'{args.out} must be a new file that ends in .safetensors or .pth')
    return args


def run(args):
    from .work.convert_checkpoint import convert
    convert(args.checkpoint, args.out)


def main(argv=None):
    cli.run_command(__name__, argv)
