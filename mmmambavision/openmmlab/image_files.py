"""Whether an image file is there, is an image and is complete."""
import os
from pathlib import Path

import cv2
import numpy as np

from ..errors import not_the_file


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
