"""Images and videos that a command line names, frame by frame."""
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.logging import print_log
from PIL import Image

from ...errors import UserError
from ..training.images import ends_early, fault

IMAGES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif'}
TIFF = {'.tif', '.tiff'}
VIDEOS = {'.mp4', '.avi', '.mov', '.mkv', '.webm'}


class UnreadableError(Exception):
    """A file that is no image or video, whatever its name says."""


@dataclass
class Source:
    """A file to predict on, its name below the folder that it was found in, and which of its pages, if it has several,
    such as the frames of an animated GIF or WebP (None: it has one)."""
    path: Path
    name: Path
    page: int | None = None

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


@dataclass
class Frame:
    """An image, or one of a video's: its pixels, (H, W, 3) in BGR or (H, W), its number and the frames per second."""
    source: Source
    image: np.ndarray[Any, Any]
    number: int = 0
    rate: float = 0.


def find_inputs(names: Iterable[str]) -> list[Source]:
    """The files behind paths, folders (with the folders in them) and patterns, each once, in order.

    Raises:
        UserError: nothing is there, or something that is neither an image nor a video.
    """
    sources = {}
    for name in names:
        matches = [Path(name)] if Path(name).exists() else sorted(map(Path, glob(name, recursive=True)))
        if not matches:
            raise UserError(f'{name}: there is no such file or folder, and as a pattern it matches none')
        for path in matches:
            found = [Source(path, Path(path.name))]
            if path.is_dir():
                found = [Source(file, file.relative_to(path)) for file in sorted(path.rglob('*'))
                         if file.suffix.lower() in IMAGES | VIDEOS and not file.is_dir()]
                other = [file.name for file in sorted(path.rglob('*')) if file.suffix.lower() not in IMAGES | VIDEOS
                         and str(guess_type(file.name)[0]).startswith(('image/', 'video/'))]
                if other:
                    print_log(f"{path}: {len(other)} files are passed over, such as {other[0]}: names ending in "
                              f"{', '.join(sorted(IMAGES | VIDEOS))} are taken", level=logging.WARNING)
                if not found:
                    raise UserError(f'{path} holds no image or video: names ending in '
                                    f"{', '.join(sorted(IMAGES | VIDEOS))} are looked for")
            elif path.suffix.lower() not in IMAGES | VIDEOS:
                raise UserError(f"{path} is no image or video by its name: it would end in "
                                f"{', '.join(sorted(IMAGES | VIDEOS))}")
            for source in found:
                sources[os.path.realpath(source.path)] = pages_of(source)
    return [page for pages in sources.values() for page in pages]


def pages_of(source: Source) -> list[Source]:
    """The source itself or, of an image with several pages, one source for each, named by its number from 1 on."""
    suffix = source.path.suffix.lower()
    if suffix not in IMAGES:
        return [source]
    try:
        with Image.open(source.path) as image:
            count = getattr(image, 'n_frames', 1)
    except Exception:  # whatever Pillow's readers raise of a damaged file, of which `frames_of` will tell
        count = 1
    writable = suffix in TIFF or (count == 1 and suffix != '.gif')  # OpenCV writes these
    ending = source.name.suffix if writable else '.png'
    if count == 1:
        return [Source(source.path, source.name.with_suffix(ending))]
    return [Source(source.path, source.name.with_name(f'{source.name.stem}_page{page + 1}{ending}'), page)
            for page in range(count)]


def read_page(source: Source, colour: str = 'color') -> np.ndarray[Any, Any] | None:
    """The image of a source in BGR, or None.

    Args:
        source: the file, and which of its pages.
        colour: 'color' for an image (H, W, 3), 'grayscale' for (H, W), 'unchanged' for the channels of the file; as
            `LoadImageFromFile` in a pipeline has them.
    """
    suffix = source.path.suffix.lower()
    if suffix in TIFF and source.page:
        flag = cv2.IMREAD_UNCHANGED if colour == 'unchanged' else cv2.IMREAD_COLOR
        _, images = cv2.imreadmulti(str(source.path), source.page, 1, flags=flag)
        image = images[0] if images else None
    elif suffix == '.gif' or (source.page is not None and suffix not in TIFF):
        with Image.open(source.path) as image:
            image.seek(source.page or 0)
            image = np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    else:
        return mmcv.imread(str(source.path), flag=colour)
    return in_grey(image) if colour == 'grayscale' and image is not None else image


def in_grey(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An image (H, W, 3) in BGR as (H, W)."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def in_colour(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An image (H, W, 3) to draw on, of one of any number of channels."""
    if image.ndim == 2 or image.shape[2] < 3:
        return np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def number_of_frames(source: Source) -> int:
    """1 for an image; of a video what it says of itself."""
    return max(1, int(cv2.VideoCapture(str(source.path)).get(cv2.CAP_PROP_FRAME_COUNT))) if source.is_video else 1


def frames_of(source: Source, colour: str = 'color') -> Iterator[Frame]:
    """The image of a file, or the frames of a video, as `read_page` reads them.

    Raises:
        UnreadableError: there is none in it.
    """
    if not source.is_video:
        try:  # OpenCV fills what is missing of a file that is cut off with grey
            whole = source.path.stat().st_size and not ends_early(source.path)
            image = read_page(source, colour) if whole else None
        except Exception:  # a link to nowhere, a damaged page, more pixels than opencv takes
            image = None
        if image is None:
            raise UnreadableError(f"{source.path} cannot be read: {fault(source.path) or 'it is not an image'}")
        yield Frame(source, image)
        return
    video = mmcv.VideoReader(str(source.path))
    number = 0
    while (image := video.read()) is not None:
        yield Frame(source, in_grey(image) if colour == 'grayscale' else image, number, video.fps)
        number += 1
    if number == 0:
        raise UnreadableError(f'{source.path} is not a video that can be read')
