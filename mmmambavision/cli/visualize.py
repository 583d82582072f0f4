"""Draw attention maps, receptive fields, scan memory or Grad-CAM of a trained network.

Writes a picture and an array file (.npz) for each image. See docs/look_inside.md.
"""
from pathlib import Path

from .. import cli
from ..errors import UserError
from .arguments import add_device, add_settings


def add_arguments(parser):
    commands = parser.add_subparsers(dest='view', required=True)
    attention = commands.add_parser('attention', help='attention of a point, or the mean over all points')
    attention.add_argument('--heads', action='store_true', help='show each head instead of the mean')
    erf = commands.add_parser('erf', help='effective receptive field of the centre of a level, over all images')
    scan = commands.add_parser('scan', help='influence of a point on later states of a scan')
    cam = commands.add_parser('cam', help='Grad-CAM of a level for a class or a box')
    cam.add_argument('--class', dest='class_name', metavar='NAME', help='default: the predicted class')
    cam.add_argument('--box', type=int, metavar='N', help='for a detector, rank of the box by score, from 0')
    for command in (attention, scan):
        command.add_argument('--block', metavar='LEVEL.BLOCK', help='default: the last suitable block of level 2')
        command.add_argument('--point', type=point, metavar='X,Y',
                             help='pixel of the image; default: all points for attention, the centre for scan')
    for command in (erf, cam):
        command.add_argument('--level', type=int, choices=range(4), default=3)
    for command in commands.choices.values():
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument('--config', help='config file of a detector or a segmentor')
        which.add_argument('--model', help='classifier by its timm name, for example mambavision_tiny')
        command.add_argument('--checkpoint', help='checkpoint file, URL or hf://owner/repository; default for --model: '
                             'released weights; optional for erf')
        command.add_argument('images', nargs='+', type=Path, metavar='IMAGE')
        command.add_argument('--out', type=Path, default=Path('look_inside'), metavar='DIR', help='default %(default)s')
        add_device(command)
        add_settings(command)


def check(args):
    if args.config and not args.checkpoint and args.view != 'erf':
        raise UserError(f'{args.view} needs --checkpoint, because random weights show nothing')
    return args


def point(text):
    """Parse X,Y as two integers."""
    x, y = text.split(',')
    return int(x), int(y)


def files_of(args):
    """The output files without suffix, one for each image or one for all images.

    Raises:
        UserError: a file exists already, two images have the same name, or the output folder is a file.
    """
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f'--out {args.out} must name a folder')
    names = [f'erf_level{args.level}'] if args.view == 'erf' else [f'{i.stem}_{args.view}' for i in args.images]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'several images would be written to {args.out / twice[0]}.png. Run the command for each image '
                        'with its own --out')
    files = [args.out / name for name in names]
    there = [str(f) for file in files for suffix in ('.png', '.npz') if (f := Path(f'{file}{suffix}')).exists()]
    if there:
        raise UserError(f"files exist already: {', '.join(there)}. Use another folder: --out NEW_FOLDER")
    return files


def run(args):
    files = files_of(args)
    from .work.visualize import look_inside
    look_inside(args, files)


def main(argv=None):
    cli.run_command(__name__, argv)
