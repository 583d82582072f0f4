"""Read and check the images and label maps of a segmentation data set."""
from collections import Counter

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from ...errors import UserError
from ..image_files import ONLY_8_BITS, ends_early, fault, read_header
from .find import image_files
from .survey import Survey, first, spread

IGNORED = 255  # value of ignored pixels, not used in training or evaluation
WITH_IGNORED = f'label maps with {IGNORED}'


def class_names(folder, values):
    """Names of the classes: the lines of classes.txt in `folder`, or class_0, class_1, ... up to the largest value.

    Args:
        values: pixel values in the training label maps.

    Raises:
        UserError: there are fewer than two classes, a name appears twice, or classes.txt is not a text file.
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
            raise UserError(f'{file} names {twice[0]!r} twice. Rename one of the two')
        source = str(file)
    else:
        names = tuple(f'class_{i}' for i in range(max(found, default=-1) + 1))
        if len(names) > max(8, 2 * len(found)):
            raise UserError(f'the training label maps in {folder} have only the values {first(found, 10)}, but the '
                            f'largest one means {len(names)} classes. Number the classes 0, 1, 2 and so on, or list '
                            'all classes in classes.txt')
        source = (f'the values in the label maps, {first(sorted(values), 10) or "only " + str(IGNORED)} '
                  f'({IGNORED} means no class)')
    if len(names) < 2:
        raise UserError(f'{len(names)} class from {source}: a segmentor needs at least two, and the background counts '
                        'as one')
    return names


def survey(split, images, labels, quiet=False, skip_broken=False):
    """Count the contents of one split and report its faults. Reads every label map.

    Args:
        split: name of the split.
        images, labels: folders.
        quiet, skip_broken: as in `check_files`.

    Returns:
        The `Survey`, with classes by pixel value, and the suffix of the image files.

    Raises:
        UserError: there are no images, images have several suffixes, or a label map is not valid.
    """
    files = image_files(images)
    if not files:
        raise UserError(f'{images} has no images')
    endings = Counter(path.suffix for path in files)
    if len(endings) > 1:
        raise UserError(f'the images in {images} end in {" and ".join(endings)}, but mmseg reads only one file suffix. '
                        'Convert the images to one format')
    expected = {labels / path.relative_to(images).with_suffix('.png'): path for path in files}
    missing = [str(label.relative_to(labels)) for label in expected if not label.is_file()]
    if len(missing) == len(files):
        raise UserError(f'no image of {images} has a label map in {labels}: the label map of {files[0].name} must be '
                        f'{missing[0]}')
    unused = len(set(labels.rglob('*.png')) - set(expected))

    widths, heights, other_size, deep, broken, classes, ignored, partly = [], [], [], [], [], Counter(), 0, 0
    turned, longer = [], []
    for label, image in track(expected.items(), f'reading the label maps of {split}', disable=quiet):
        cut = [f'{file}: {reason}' for file in (image, label) if file.is_file() and (reason := ends_early(file))]
        try:
            width, height, orientation, bits, has_more = read_header(image)
            values = read(label) if label.is_file() else None
        except UserError as error:
            if not skip_broken or not (fault(image) or fault(label)):
                raise
            cut = cut or [str(error)]
        broken += cut
        if cut:
            continue
        deep += [image.name] if bits > 8 else []
        turned += [image.name] if orientation != 1 else []
        longer += [image.name] if has_more else []
        widths.append(width)
        heights.append(height)
        if values is not None:
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
        (len(other_size), f'label maps in {labels} do not have the size of their images: {first(other_size)}'),
        (0 if skip_broken else len(broken), f'files cannot be read, for example {first(broken, 1)}')]
    oddities = [
        (len(deep), f'images of more than 8 bits per channel ({first(deep, 1)}): {ONLY_8_BITS}'),
        (len(turned), f'images that are turned or mirrored by their EXIF orientation ({first(turned, 1)}): their label '
                      'maps must fit the turned image'),
        (len(longer), f'images of several frames or pages ({first(longer, 1)}): only the first is read'),
        (unused, 'label maps that have no image, left out'),
        (ignored, f'label maps with only the value {IGNORED}, not used for training')]
    return Survey(rows, classes, 'images', problems, oddities), endings.popitem()[0]


def read(path):
    """Read a label map (H, W) with the class of every pixel.

    Raises:
        UserError: the file is not an image, has several channels, or has values above 255.
    """
    try:
        values = np.asarray(Image.open(path))
    except (OSError, UnidentifiedImageError):
        raise UserError(f'{path} cannot be read: {fault(path) or "it is not an image, or damaged"}') from None
    if values.ndim != 2:
        raise UserError(f'{path} is in colours (its shape is {values.shape}). A label map has one channel with the '
                        'class number of each pixel')
    if values.max() > 255:
        raise UserError(f'{path} has the value {values.max()}, but mmseg reads only values up to 255')
    return values
