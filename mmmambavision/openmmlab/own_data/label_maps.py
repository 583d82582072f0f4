"""Images and label maps of a segmentor's data: read, counted, classes found."""
from collections import Counter

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from ...errors import UserError
from ..training.images import ends_early, fault
from .find import image_files
from .headers import ONLY_8_BITS, read_header
from .survey import Survey, first, spread

IGNORED = 255  # value of pixels that neither train nor count
WITH_IGNORED = f'label maps with {IGNORED}'


def class_names(folder, values):
    """Names of the classes: the lines of classes.txt in `folder`, else class_0 and so on up to the largest value.

    Args:
        values: those in the label maps of training.

    Raises:
        UserError: fewer than two classes, two of one name, or a file that is no text.
    """
    file = folder / 'classes.txt'
    found = sorted(set(values) - {IGNORED})
    if file.is_file():
        try:
            text = file.read_text(encoding='utf-8-sig')
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'{file} cannot be read as UTF-8: {error}') from None
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(f'{file} names {twice[0]!r} twice; give one of the two another name')
        source = str(file)
    else:
        names = tuple(f'class_{i}' for i in range(max(found, default=-1) + 1))
        source = (f'the values in the label maps, {first(sorted(values), 10) or "none but " + str(IGNORED)}, of which '
                  f'{IGNORED} stands for no class')
    if len(names) < 2:
        raise UserError(f'{len(names)} class from {source}: a segmentor needs two at least, the background being one')
    return names


def survey(split, images, labels, quiet=False, skip_broken=False):
    """What is in one split, and what is wrong with it; reads every label map.

    Args:
        split: its name.
        images, labels: folders.
        quiet, skip_broken: as of `check_files`.

    Returns:
        The `Survey`, its classes by value, and the ending of the image files.

    Raises:
        UserError: there are no images, images of several endings, or a label map that is none.
    """
    files = image_files(images)
    if not files:
        raise UserError(f'{images} has no images')
    endings = Counter(path.suffix for path in files)
    if len(endings) > 1:
        raise UserError(f'the images in {images} end in {" and ".join(endings)}, and the data set of mmseg reads one '
                        'ending: rename or convert them')
    expected = {labels / path.relative_to(images).with_suffix('.png'): path for path in files}
    missing = [str(label.relative_to(labels)) for label in expected if not label.is_file()]
    if len(missing) == len(files):
        raise UserError(f'no image of {images} has a label map in {labels}: that of {files[0].name} would be '
                        f'{missing[0]}')
    unused = len(set(labels.rglob('*.png')) - set(expected))

    widths, heights, other_size, deep, broken, classes, ignored, partly = [], [], [], [], [], Counter(), 0, 0
    for label, image in track(expected.items(), f'reading the label maps of {split}', disable=quiet):
        width, height, _, bits, _ = read_header(image)
        deep += [image.name] if bits > 8 else []
        broken += [f'{file}: {reason}' for file in (image, label) if file.is_file() and (reason := ends_early(file))]
        widths.append(width)
        heights.append(height)
        if label.is_file():
            values = read(label)
            if values.shape != (height, width):
                other_size.append(label.name)
            found = np.unique(values).tolist()
            ignored += found == [IGNORED]
            partly += IGNORED in found
            classes.update(value for value in found if value != IGNORED)
    rows = {'images': len(files), 'image width, min / median / max': spread(widths), 'image height': spread(heights),
            'missing label maps': len(missing), 'label maps of no image': unused,
            'label maps of another size': len(other_size), f'label maps of {IGNORED} alone': ignored,
            WITH_IGNORED: partly}
    problems = [
        (len(missing), f'of the {len(files)} images in {images} have no label map in {labels}: {first(missing)}'),
        (len(other_size), f'label maps in {labels} are of another size than their images: {first(other_size)}'),
        (0 if skip_broken else len(broken), f'files cannot be read, such as {first(broken, 1)}')]
    oddities = [
        (len(deep), f'images of more than 8 bits per channel ({first(deep, 1)}): {ONLY_8_BITS}'),
        (unused, 'label maps that have no image, left out'),
        (ignored, f'label maps that are {IGNORED} all over, from which nothing is learned')]
    return Survey(rows, classes, 'images', problems, oddities), endings.popitem()[0]


def read(path):
    """A label map (H, W), the class of every pixel.

    Raises:
        UserError: it is not an image, or has colours or values above 255.
    """
    try:
        values = np.asarray(Image.open(path))
    except (OSError, UnidentifiedImageError):
        raise UserError(f'{path} cannot be read: {fault(path) or "it is not an image, or damaged"}') from None
    if values.ndim != 2:
        raise UserError(f'{path} is in colours (its shape is {values.shape}): a label map has one channel, in it the '
                        'number of the class of each pixel')
    if values.max() > 255:
        raise UserError(f'{path} has the value {values.max()}: mmseg reads label maps of values up to 255')
    return values
