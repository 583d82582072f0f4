"""Draw attention maps, receptive fields, scan memory or Grad-CAM of a trained network.

Writes a picture and its numbers (.npz) for each image: docs/look_inside.md.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from .arguments import add_device, add_settings


def add_arguments(parser):
    commands = parser.add_subparsers(dest='view', required=True)
    attention = commands.add_parser('attention', help='what a point, or every point on average, attends to')
    attention.add_argument('--heads', action='store_true', help='each head by itself instead of their mean')
    erf = commands.add_parser('erf', help='effective receptive field of the centre of a level, over all images')
    scan = commands.add_parser('scan', help="how far a point's influence reaches through a scan")
    cam = commands.add_parser('cam', help='Grad-CAM: where a level speaks for a class or a box')
    cam.add_argument('--class', dest='class_name', metavar='NAME', help='default: the one predicted most surely')
    cam.add_argument('--box', type=int, metavar='N', help='of a detector, the box of the N-th highest score, from 0')
    for command in (attention, scan):
        command.add_argument('--block', metavar='LEVEL.BLOCK', help='default: the last one of level 2 of its kind')
        command.add_argument('--point', type=point, metavar='X,Y',
                             help='pixel of the image; default: all in attention, the middle in scan')
    for command in (erf, cam):
        command.add_argument('--level', type=int, choices=range(4), default=3)
    for command in commands.choices.values():
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument('--config', help='config file of a detector or a segmentor')
        which.add_argument('--model', help='classifier by its name in timm, such as mambavision_tiny')
        command.add_argument('--checkpoint', help='checkpoint file, URL or hf://owner/repository; default of --model: '
                             'its released weights; erf does without')
        command.add_argument('images', nargs='+', type=Path, metavar='IMAGE')
        command.add_argument('--out', type=Path, default=Path('look_inside'), metavar='DIR', help='default %(default)s')
        add_device(command)
        add_settings(command)


def check(args):
    if args.config and not args.checkpoint and args.view != 'erf':
        raise UserError(f'{args.view} needs --checkpoint: random weights show nothing')
    return args


def point(text):
    """X,Y as two integers."""
    x, y = text.split(',')
    return int(x), int(y)


def files_of(args):
    """The files to write, without their suffixes, one for each image or one for all.

    Raises:
        UserError: one is there already, two images have one name, or the folder is a file.
    """
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f'--out {args.out} must name a folder')
    names = [f'erf_level{args.level}'] if args.view == 'erf' else [f'{i.stem}_{args.view}' for i in args.images]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'several images would be written to {args.out / twice[0]}.png: give them one at a time, each '
                        'with its own --out')
    files = [args.out / name for name in names]
    there = [str(f) for file in files for suffix in ('.png', '.npz') if (f := Path(f'{file}{suffix}')).exists()]
    if there:
        raise UserError(f"not overwritten: {', '.join(there)}; --out NEW_FOLDER writes elsewhere")
    return files


def run(args):
    files = files_of(args)
    from .work.visualize import look_inside
    look_inside(args, files)


def main(argv=None):
    cli.run_command(__name__, argv)
