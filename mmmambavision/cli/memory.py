"""Estimate the GPU memory of a training step, without a GPU and without running it.

CUDA itself, the workspaces of its libraries and fragmentation need some GiB more. See docs/several_machines.md.
"""
from .. import cli
from ..errors import UserError
from .arguments import add_settings


def add_arguments(parser):
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config file')
    parser.add_argument('--batch', type=int, metavar='N', help='images of a process; default: batch size of the config')
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'),
                        help='size of the images; default: the crop of a segmentor, else 800 1344')
    parser.add_argument('--amp', action='store_true', help='mixed precision in 16 bits; default: as the config')
    parser.add_argument('--cp', action='store_true', help='activation checkpointing of the backbone')
    parser.add_argument('--fsdp', type=int, default=1, metavar='N',
                        help='number of processes that share the parameters, as with train.py --fsdp')
    parser.add_argument('--markdown', action='store_true', help='print a Markdown table')
    add_settings(parser)


def check(args):
    if (args.batch is not None and args.batch < 1) or args.fsdp < 1:
        raise UserError('--batch and --fsdp must be at least 1')
    if args.size and min(args.size) < 32:
        raise UserError(f"--size {' '.join(map(str, args.size))}: both sides must be at least 32 pixels")
    return args


def run(args):
    from .work.memory import show_memory
    show_memory(args)


def main(argv=None):
    cli.run_command(__name__, argv)
