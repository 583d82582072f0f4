"""What the headers of image files say, as the pipelines of mmdet and mmseg read them."""
from typing import NamedTuple

from PIL import Image
from rich.progress import track

from ...errors import UserError
from ..training.images import fault
from .survey import first

TURNED = range(5, 9)  # EXIF orientations that swap width and height
DEEP = {'I;16', 'I;16B', 'I;16L', 'I', 'F'}  # Pillow's modes of more than 8 bits


class Header(NamedTuple):
    """Width and height as the image is read, whether its EXIF orientation swapped them, bits per channel."""
    width: int
    height: int
    turned: bool
    bits: int


def read_header(path, turns=True):
    """The `Header` of an image file, turned by its EXIF orientation or not.

    Raises:
        UserError: it is not an image, or damaged; says what it is.
    """
    try:
        with Image.open(path) as image:
            bits = 16 if image.mode in DEEP else 8
            if image.format == 'PNG':  # of which Pillow opens colours of 16 bits as colours of 8
                with open(path, 'rb') as file:
                    bits = max(8, file.read(25)[24])
            # Of a PNG without EXIF data, Pillow would decode the pixels to look for it behind them.
            has_exif = image.format != 'PNG' or 'exif' in image.info
            turned = turns and has_exif and image.getexif().get(0x0112) in TURNED
            return Header(*(image.size[::-1] if turned else image.size), turned, bits)
    except Exception as error:  # whatever Pillow's readers of many formats raise
        reason = fault(path) or f'it is not an image, or damaged ({type(error).__name__})'
        raise UserError(f'{path} cannot be read: {reason}') from None


def check_files(sizes, folder, what, turns=True, skip_broken=False, quiet=False):
    """Compare the headers of image files with what annotations say of them.

    Args:
        sizes: {file name: (width, height)}, of files that are there.
        folder: that they are in.
        what: the name of the split, for the progress bar.
        turns: whether images are turned by their EXIF orientation when they are read.
        skip_broken: whether files that cannot be read are passed over in training, so that they are no problem.
        quiet: without the bar.

    Returns:
        Problems and oddities as `Survey` takes them.
    """
    other, turned, broken, deep = [], [], [], []
    for name, size in track(sizes.items(), f'reading the headers of {what} images', disable=quiet):
        try:
            header = read_header(folder / name, turns)
        except UserError as error:
            broken.append(str(error))
            continue
        if (header.width, header.height) != tuple(size):
            example = f'{name}, {size[0]:g}x{size[1]:g}, is read as {header.width}x{header.height}'
            (turned if header.turned and (header.height, header.width) == tuple(size) else other).append(example)
        if header.bits > 8:
            deep.append(name)
    problems = [
        (0 if skip_broken else len(broken), f'images cannot be read, such as {first(broken, 1)}'),
        (len(turned), f'images in {folder} are turned when they are read, as their EXIF orientation says, and their '
                      f'annotations are for the image that is not turned: {first(turned, 1)}. Turn the files for good '
                      'or remove the orientation'),
        (len(other), f'images in {folder} have other sizes than their annotations say: {first(other, 1)}')]
    oddities = [(len(deep), f'images of more than 8 bits per channel ({first(deep, 1)}): only the highest 8 bits are '
                            'read, so dark ones are nearly black')]
    return problems, oddities
