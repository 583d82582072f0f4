"""Read the header of an image file, and find out whether the file is an image and complete."""
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..errors import UserError, not_the_file

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
            if orientation in SWAPS and image.format != 'JPEG' and not is_turned(path):
                orientation = 1
            if orientation in SWAPS:
                width, height = height, width
            return Header(width, height, orientation, bits_of(path, image),
                          image.format != 'MPO' and getattr(image, 'is_animated', False))  # MPO: a JPEG with previews
    except Exception as error:  # whatever Pillow's readers of many formats raise
        reason = fault(path) or f'it is not an image, or damaged ({type(error).__name__})'
        raise UserError(f'{path} cannot be read: {reason}') from None


def is_turned(path):
    """Whether OpenCV applies the EXIF orientation of an image. For PNG and others, this depends on OpenCV's version."""
    data = np.fromfile(path, np.uint8)
    turned, plain = (cv2.imdecode(data, cv2.IMREAD_COLOR | flag) for flag in (0, cv2.IMREAD_IGNORE_ORIENTATION))
    return turned is None or not np.array_equal(turned, plain)


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


def fault(path):
    """The reason why an image file is unreadable, or None. Remote files are not checked."""
    if '://' in str(path):
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return error.strerror
    if not data:
        return 'it is empty'
    if pointer := not_the_file(data):
        return pointer
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is None:
        return too_short(path) or 'it is not an image'
    return too_short(path)


def too_short(path):
    """A message if a JPEG or PNG file is truncated, or None."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    if data.startswith(b'\xff\xd8') and data.find(b'\xff\xd9', first_scan(data)) < 0:
        return 'the JPEG is cut off'
    if data.startswith(b'\x89PNG') and b'IEND\xaeB`\x82' not in data:
        return 'the PNG is cut off'
    return None


def ends_early(path):
    """Like `too_short`, but faster: it reads the whole file only if the last bytes have no end marker."""
    with open(path, 'rb') as file:
        file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
        tail = file.read()
    return None if b'\xff\xd9' in tail or b'IEND\xaeB`\x82' in tail else too_short(path)


def first_scan(jpeg):
    """The offset of the first scan of a JPEG. Earlier segments can hold a thumbnail with its own end marker."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        at += 1 if jpeg[at + 1] == 0xFF else 2 + int.from_bytes(jpeg[at + 2:at + 4], 'big')
    return at
