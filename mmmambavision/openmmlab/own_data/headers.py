"""What the headers of image files say, as the pipelines of mmdet and mmseg read them."""
import re
import struct
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from ...errors import UserError
from ..training.images import ends_early, fault
from .survey import first

ORIENTATION = 0x0112  # its number in EXIF data
SWAPS = range(5, 9)  # orientations that swap width and height
ONLY_8_BITS = 'only the highest 8 bits are read, so dark ones are nearly black'
DEEP = {'I;16': 16, 'I;16B': 16, 'I;16L': 16, 'I': 32, 'F': 32}  # bits of Pillow's modes of more than 8


class Header(NamedTuple):
    """Width and height as the image is read, the EXIF orientation by which it was turned (1: not), bits per channel,
    whether there are further frames or pages, which are not read."""
    width: int
    height: int
    orientation: int
    bits: int
    has_more: bool = False


def read_header(path, turns=True):
    """The `Header` of an image file, turned by its EXIF orientation or not.

    Raises:
        UserError: it is not an image, or damaged; says what it is.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format == 'TIFF':  # which OpenCV always turns; Pillow's size is that of the turned image
                orientation, bits = image.tag_v2.get(ORIENTATION, 1), max(image.tag_v2.get(258, (8,)))
                return Header(width, height, orientation, bits, image.is_animated)
            exif = exif_of_png(path) if image.format == 'PNG' else image.getexif()
            orientation = exif.get(ORIENTATION, 1) if turns else 1
            if orientation in SWAPS and image.format != 'JPEG':  # which formats OpenCV turns depends on its version
                pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
                orientation = orientation if pixels is None or pixels.shape[:2] != (height, width) else 1
            if orientation in SWAPS:
                width, height = height, width
            return Header(width, height, orientation, bits_of(path, image),
                          image.format != 'MPO' and getattr(image, 'is_animated', False))  # as cameras write one JPEG
    except Exception as error:  # whatever Pillow's readers of many formats raise
        reason = fault(path) or f'it is not an image, or damaged ({type(error).__name__})'
        raise UserError(f'{path} cannot be read: {reason}') from None


def exif_of_png(path):
    """The EXIF data of a PNG, before or behind its pixels, without decoding these."""
    exif = Image.Exif()
    with open(path, 'rb') as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack('>I4s', head)
            if kind == b'eXIf':
                exif.load(b'Exif\0\0' + file.read(length))
                break
            file.seek(length + 4, 1)
    return exif


def bits_of(path, image):
    """Bits per channel, also of formats whose colours of 16 bits Pillow opens as colours of 8."""
    with open(path, 'rb') as file:
        head = file.read(4096)
    if image.format == 'PNG':
        return max(8, head[24])
    if image.format == 'PPM' and (found := re.match(rb'P[2356](?:\s+(?:#.*\n)?\d+){2}\s+(\d+)', head)):
        return 16 if int(found[1]) > 255 else 8
    if image.format == 'JPEG2000' and b'ihdr' in head:  # height, width (4 bytes each), channels (2), bits less 1
        return max(8, (head[head.index(b'ihdr') + 14] & 0x7f) + 1)
    return DEEP.get(image.mode, 8)


def channels_of(path):
    """How many an image has that is read as it is."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    return 0 if image is None else image.size // (image.shape[0] * image.shape[1])


def check_files(sizes, folder, what, turns=True, skip_broken=False, quiet=False, channels=None):
    """Compare the headers of image files with what annotations say of them.

    Args:
        sizes: {file name: (width, height)}, of files that are there.
        folder: that they are in.
        what: the name of the split, for the progress bar.
        turns: whether images are turned by their EXIF orientation when they are read.
        skip_broken: whether files that cannot be read are passed over in training, so that they are no problem.
        quiet: without the bar.
        channels: how many each has to have; None where they are read with as many, whatever is in the file.

    Returns:
        Problems and oddities as `Survey` takes them.
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
            broken.append(f'{folder / name}: it has {header.bits} bits per channel, and 8 or 16 are read')
        elif header.bits > 8:
            deep.append(name)
        if channels and (found := channels_of(folder / name)) != channels:
            unlike.append(f'{name} with {found}')
        if header.has_more:
            longer.append(name)
    problems = [
        (0 if skip_broken else len(broken), f'images cannot be read, such as {first(broken, 1)}'),
        (len(unlike), f'images in {folder} have other channels than the {channels} of model.backbone.in_channels: '
                      f'{first(unlike, 1)}'),
        (len(turned), f'images in {folder} are turned when they are read, as their EXIF orientation says, and their '
                      f'annotations are for the image that is not turned: {first(turned, 1)}. Turn the files for good '
                      'or remove the orientation'),
        (len(other), f'images in {folder} have other sizes than their annotations say: {first(other, 1)}')]
    oddities = [(len(mirrored), 'images that are turned or mirrored when they are read, as their EXIF orientation says '
                                f'({first(mirrored, 1)}): their annotations have to be for the turned image'),
                (len(deep), f'images of more than 8 bits per channel ({first(deep, 1)}): {ONLY_8_BITS}'),
                (len(longer), f'images of several frames or pages ({first(longer, 1)}): only the first is read')]
    return problems, oddities
