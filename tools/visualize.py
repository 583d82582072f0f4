"""Look inside a trained network: `python tools/visualize.py attention --config CONFIG --checkpoint FILE IMAGE...`.

Writes a picture and its numbers (.npz) for each image: docs/look_inside.md.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.config import DictAction
from rich.progress import track

from mmmambavision.errors import UserError
from mmmambavision.interpret.attention import attention_map
from mmmambavision.interpret.cam import grad_cam, load_grad_cam
from mmmambavision.interpret.picture import read_pixels
from mmmambavision.interpret.plots import draw
from mmmambavision.interpret.receptive_field import effective_receptive_field, radius_of_half
from mmmambavision.interpret.scan import scan_maps
from mmmambavision.interpret.tokens import find_block, trunk_of
from mmmambavision.models.mixers import Attention, MambaVisionMixer
from mmmambavision.openmmlab.configs import fit_to_machine, load_config
from mmmambavision.terminal import device, run


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
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
        command.add_argument('--device', type=device, default='cuda' if torch.cuda.is_available() else 'cpu')
        command.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                             help='settings that replace those of the config')
        command.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args(argv)


def point(text):
    """X,Y as two integers."""
    x, y = text.split(',')
    return int(x), int(y)


def outputs(args):
    """The files to write, without their suffixes, one for each image or one for all.

    Raises:
        UserError: one is there already, two images have one name, or the folder is a file.
    """
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f'--out {args.out} must name a folder')
    names = [f'erf_level{args.level}'] if args.command == 'erf' else [f'{i.stem}_{args.command}' for i in args.images]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'several images would be written to {args.out / twice[0]}.png: give them one at a time, each '
                        'with its own --out')
    files = [args.out / name for name in names]
    there = [str(f) for file in files for suffix in ('.png', '.npz') if (f := Path(f'{file}{suffix}')).exists()]
    if there:
        raise UserError(f"not overwritten: {', '.join(there)}; --out NEW_FOLDER writes elsewhere")
    return files


def load(args):
    """The model to look into, a `Subject` or a `Classifier`."""
    if args.model:
        from mmmambavision.interpret.classifier import Classifier
        return Classifier(args.model, args.checkpoint, args.device)
    if not args.checkpoint and args.command != 'erf':
        raise UserError(f'{args.command} needs --checkpoint: random weights show nothing')
    from mmmambavision.openmmlab.subject import Subject
    cfg = load_config(args)
    fit_to_machine(cfg)
    return Subject(cfg, args.checkpoint, args.device)


def attention(subject, args, picture):
    block = find_block(trunk_of(subject.model), Attention, args.block)
    token = None if args.point is None else picture.token(args.point, block.stride)
    heads = attention_map(block, picture.input, token).cpu().numpy()
    shown = picture.on_pixels(heads if args.heads else heads.mean(0, keepdims=True), block.stride)
    title = f'attention, block {block.name}, ' + ('mean over queries' if token is None else 'from the cross')
    titles = [f'{title}, head {i}' for i in range(len(heads))] if args.heads else [title]
    return draw(picture.pixels, dict(zip(titles, shown)), point=args.point), dict(
        attention=heads, block=block.name, token=() if token is None else token)


def scan(subject, args, picture):
    block = find_block(trunk_of(subject.model), MambaVisionMixer, args.block)
    height, width = picture.pixels.shape[:2]
    start = args.point or (width // 2, height // 2)
    token = picture.token(start, block.stride)
    reach, half_lives = (values.cpu().numpy() for values in scan_maps(block, picture.input, token))
    shown, = picture.on_pixels(reach.mean(0, keepdims=True), block.stride, smooth=False)
    title = f'what block {block.name} still holds of the cross'
    figure = draw(picture.pixels, {title: shown}, gamma=.5, point=start, half_lives=half_lives)
    return figure, dict(reach=reach, half_life=half_lives, block=block.name, token=token)


def cam(subject, args, picture):
    trunk = trunk_of(subject.model)
    score, title, box = subject.explain(picture, args.class_name, args.box)
    values = grad_cam(subject.model, level_of(trunk, args.level), picture.input, score)
    shown, = picture.on_pixels(values[None], 1)
    with torch.no_grad():
        value = score(picture.input).item()
    return draw(picture.pixels, {f'Grad-CAM, level {args.level}: {title}': shown}, box=box), dict(
        cam=shown, level=args.level, score=value, box=() if box is None else box)


def erf(subject, args):
    """The mean fields over all images, with random and with trained weights, on the first image."""
    level_of(trunk_of(subject.model), args.level)
    torch.manual_seed(0)
    networks = {'random': subject.untrained()}
    if args.checkpoint or args.model:
        networks['trained'] = subject.model
    stride = 4 * 2 ** args.level
    first = subject.prepare(args.images[0])
    maps, circles, numbers = {}, {}, {}
    for name, network in networks.items():
        def level_map(images, trunk=trunk_of(network)):
            return trunk.level_maps(images, args.level + 1)[args.level]

        inputs = (subject.prepare(path).input for path in track(args.images, f'{name} weights'))
        field, centre = effective_receptive_field(level_map, inputs, stride)
        radius = radius_of_half(field, centre)
        title = f'level {args.level}, {name} weights: half within {radius:.0f} pixels'
        maps[title], = first.around_centre(field, centre, stride)
        circles[title] = first.disc(radius, stride)
        numbers |= {name: field.cpu().numpy(), f'radius_{name}': radius, 'centre': centre}
    return draw(first.pixels, maps, gamma=.3, circle=circles), dict(numbers, level=args.level)


def level_of(trunk, level):
    """A level of the network, a module.

    Raises:
        UserError: the network was built without it.
    """
    if level >= len(trunk.levels):
        raise UserError(f'--level {level} is not there: this network has levels 0 to {len(trunk.levels) - 1}')
    return trunk.levels[level]


def save(file, figure, numbers):
    figure.savefig(f'{file}.png', dpi=110)
    np.savez_compressed(f'{file}.npz', **numbers)
    print(f'{file}.png and .npz')


def main(argv=None):
    args = parse_args(argv)
    files = outputs(args)
    for path in args.images:
        read_pixels(path)  # a broken one is to stop the command now and not after the others
    if args.command == 'cam':
        load_grad_cam()
    subject = load(args)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{args.out} cannot be made: {error.strerror}') from None
    if args.command == 'erf':
        save(files[0], *erf(subject, args))
        return
    look = dict(attention=attention, scan=scan, cam=cam)[args.command]
    for path, file in zip(track(args.images, args.command), files):
        save(file, *look(subject, args, subject.prepare(path)))


if __name__ == '__main__':
    run(main)
