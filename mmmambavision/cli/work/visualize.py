"""Draw attention maps, scan memory, receptive fields and Grad-CAM."""
import numpy as np
import torch
from rich.progress import track

from ...errors import UserError
from ...interpret.attention import attention_map
from ...interpret.cam import grad_cam, load_grad_cam
from ...interpret.picture import read_pixels
from ...interpret.plots import draw
from ...interpret.receptive_field import effective_receptive_field, radius_of_half
from ...interpret.scan import scan_maps
from ...interpret.tokens import find_block, trunk_of
from ...models.mixers import Attention, MambaVisionMixer
from ...openmmlab.configs import load_config
from ...openmmlab.machine import fit_to_machine
from ..arguments import device_of, settings_of


def look_inside(args, files):
    """Draw with the arguments of cli/visualize.py. `files` are the output paths without suffix."""
    device = device_of(args.device)
    for path in args.images:
        read_pixels(path)  # stop now, and not after other images, if an image is damaged
    if args.view == 'cam':
        load_grad_cam()
    subject = load(args, device)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{args.out} cannot be created: {error.strerror}') from None
    if args.view == 'erf':
        save(files[0], *erf(subject, args))
        return
    look = dict(attention=attention, scan=scan, cam=cam)[args.view]
    for path, file in zip(track(args.images, args.view), files):
        save(file, *look(subject, args, subject.prepare(path)))


def load(args, device):
    """The model to visualize, a `Subject` or a `Classifier`."""
    if args.model:
        from ...interpret.classifier import Classifier
        return Classifier(args.model, args.checkpoint, device)
    from ...openmmlab.subject import Subject
    cfg = load_config(args.config, settings_of(args.cfg_options))
    fit_to_machine(cfg)
    return Subject(cfg, args.checkpoint, device)


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
    title = f'memory of the cross, block {block.name}'
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
    """The mean receptive fields over all images, with random and trained weights, drawn on the first image."""
    level_of(trunk_of(subject.model), args.level)
    torch.manual_seed(0)
    networks = {'random': subject.untrained()}
    if args.checkpoint or args.model:
        networks['trained'] = subject.model
    stride = 4 * 2 ** args.level
    first = subject.prepare(args.images[0])
    maps, circles, numbers = {}, {}, {}
    for name, network in networks.items():
        trunk = trunk_of(network)

        def level_map(images, trunk=trunk):
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
    """A level of the network.

    Raises:
        UserError: the network has no such level.
    """
    if level >= len(trunk.levels):
        raise UserError(f'--level {level} does not exist: this network has levels 0 to {len(trunk.levels) - 1}')
    return trunk.levels[level]


def save(file, figure, numbers):
    figure.savefig(f'{file}.png', dpi=110)
    np.savez_compressed(f'{file}.npz', **numbers)
    print(f'{file}.png and .npz')
