"""Read the headers of image files and compare them with annotations."""
import re
import struct
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from ...errors import UserError
from ..image_files import ends_early, fault
from .survey import first

ORIENTATION = 0x0112  # EXIF tag
SWAPS = range(5, 9)  # orientations that swap width and height
ONLY_8_BITS = 'only the highest 8 bits are read, so dark images become nearly black'
DEEP = {'I;16': 16, 'I;16B': 16, 'I;16L': 16, 'I': 32, 'F': 32}  # Pillow modes with more than 8 bits


class Header(NamedTuple):
    """Size of an image as OpenCV reads it, applied EXIF orientation (1: none), bits per channel, and whether the file
    has more frames or pages, which are not read."""
    width: int
    height: int
    orientation: int
    bits: int
    has_more: bool = False


def read_header(path, turns=True):
    """Read the `Header` of an image file. `turns`: whether the reader applies the EXIF orientation.

    Raises:
        UserError: the file is not an image, or it is damaged.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format == 'TIFF':  # OpenCV always turns TIFF; Pillow's size is already turned
                orientation, bits = image.tag_v2.get(ORIENTATION, 1), max(image.tag_v2.get(258, (8,)))
                return Header(width, height, orientation, bits, image.is_animated)
            exif = exif_of_png(path) if image.format == 'PNG' else image.getexif()
            orientation = exif.get(ORIENTATION, 1) if turns else 1
            if orientation in SWAPS and image.format != 'JPEG':  # depends on the OpenCV version
                pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
                orientation = orientation if pixels is None or pixels.shape[:2] != (height, width) else 1
            if orientation in SWAPS:
                width, height = height, width
            return Header(width, height, orientation, bits_of(path, image),
                          image.format != 'MPO' and getattr(image, 'is_animated', False))  # MPO: a JPEG with previews
    except Exception as error:  # whatever Pillow's readers of many formats raise
        reason = fault(path) or f'it is not an image, or damaged ({type(error).__name__})'
        raise UserError(f'{path} cannot be read: {reason}') from None


def exif_of_png(path):
    """The EXIF data of a PNG, before or after its pixels, without decoding the pixels."""
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
    """Bits per channel. Pillow opens some 16-bit colour images as 8-bit, so this reads the file header."""
    with open(path, 'rb') as file:
        head = file.read(4096)
    if image.format == 'PNG':
        return max(8, head[24])
    if image.format == 'PPM' and (found := re.match(rb'P[2356](?:\s+(?:#.*\n)?\d+){2}\s+(\d+)', head)):
        return 16 if int(found[1]) > 255 else 8
    if image.format == 'JPEG2000' and b'ihdr' in head:  # height, width (4 bytes each), channels (2 bytes), bits - 1
        return max(8, (head[head.index(b'ihdr') + 14] & 0x7f) + 1)
    return DEEP.get(image.mode, 8)


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
