"""Compare the headers of image files with annotations."""
import cv2
import numpy as np
from rich.progress import track

from ...errors import UserError
from ..image_files import ONLY_8_BITS, SWAPS, ends_early, read_header
from .survey import first


def channels_of(path):
    """The number of channels of an image, read unchanged."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    return 0 if image is None else image.size // (image.shape[0] * image.shape[1])


def check_files(sizes, folder, what, turns=True, skip_broken=False, quiet=False, channels=None):
    """Compare the headers of image files with their annotations.

    Args:
        sizes: {file name: (width, height)} from the annotations, for existing files.
        folder: folder of the files.
        what: name for the progress bar.
        turns: whether the reader applies the EXIF orientation.
        skip_broken: whether training skips unreadable files, so that they are not a problem.
        quiet: no progress bar.
        channels: required number of channels; None if the reader always returns the right number.

    Returns:
        Problems and oddities for `Survey`.
    """
    other, turned, broken, deep, mirrored, longer, unlike = [], [], [], [], [], [], []
    for name, size in track(sizes.items(), f'reading the headers of {what} images', disable=quiet):
        try:
            header = read_header(folder / name, turns)
        except UserError as error:
            broken.append(str(error))
            continue
        if reason := ends_early(folder / name):
            broken.append(f'{folder / name} cannot be read: {reason}')
        if (header.width, header.height) != tuple(size):
            example = f'{name}, {size[0]:g}x{size[1]:g}, is read as {header.width}x{header.height}'
            (turned if header.orientation in SWAPS and (header.height, header.width) == tuple(size) else other
             ).append(example)
        elif header.orientation in range(2, 5) or (header.orientation in SWAPS and header.width == header.height):
            mirrored.append(name)
        if header.bits > 16:
            broken.append(f'{folder / name}: it has {header.bits} bits per channel, but only 8 or 16 can be read')
        elif header.bits > 8:
            deep.append(name)
        if channels and (found := channels_of(folder / name)) != channels:
            unlike.append(f'{name} with {found}')
        if header.has_more:
            longer.append(name)
    problems = [
        (0 if skip_broken else len(broken), f'images cannot be read, for example {first(broken, 1)}'),
        (len(unlike), f'images in {folder} do not have the {channels} channels of model.backbone.in_channels: '
                      f'{first(unlike, 1)}'),
        (len(turned), f'images in {folder} are turned by their EXIF orientation, but their annotations are for the '
                      f'image before turning: {first(turned, 1)}. Turn the files permanently or remove the '
                      'orientation'),
        (len(other), f'images in {folder} have other sizes than their annotations say: {first(other, 1)}')]
    oddities = [(len(mirrored), 'images that are turned or mirrored by their EXIF orientation '
                                f'({first(mirrored, 1)}): their annotations must fit the turned image'),
                (len(deep), f'images of more than 8 bits per channel ({first(deep, 1)}): {ONLY_8_BITS}'),
                (len(longer), f'images of several frames or pages ({first(longer, 1)}): only the first is read')]
    return problems, oddities
