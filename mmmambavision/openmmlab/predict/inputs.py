"""Find input images and videos, and read them frame by frame."""
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
from ..image_files import ONLY_8_BITS, ends_early, fault, read_header

IMAGES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif'}
TIFF = {'.tif', '.tiff'}
VIDEOS = {'.mp4', '.avi', '.mov', '.mkv', '.webm'}


class UnreadableError(Exception):
    """A file that cannot be read as an image or video."""


@dataclass
class Source:
    """An input file, its name relative to the searched folder, and the page number in a multi-page file.

    Frames of an animated GIF or WebP are pages. `page` is None if the file has one page.
    """
    path: Path
    name: Path
    page: int | None = None

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


@dataclass
class Frame:
    """An image or a video frame: pixels (H, W, 3) in BGR or (H, W), frame number, and frames per second."""
    source: Source
    image: np.ndarray[Any, Any]
    number: int = 0
    rate: float = 0.


def find_inputs(names: Iterable[str]) -> list[Source]:
    """The files for paths, folders (recursive) and glob patterns, in order, without duplicates.

    Raises:
        UserError: no file matches, or a file is neither an image nor a video.
    """
    sources = {}
    for name in names:
        matches = [Path(name)] if Path(name).exists() else sorted(map(Path, glob(name, recursive=True)))
        if not matches:
            raise UserError(f'{name}: no file or folder has this name or matches it as a pattern')
        for path in matches:
            found = [Source(path, Path(path.name))]
            if path.is_dir():
                found = [Source(file, file.relative_to(path)) for file in sorted(path.rglob('*'))
                         if file.suffix.lower() in IMAGES | VIDEOS and not file.is_dir()]
                other = [file.name for file in sorted(path.rglob('*')) if file.suffix.lower() not in IMAGES | VIDEOS
                         and str(guess_type(file.name)[0]).startswith(('image/', 'video/'))]
                if other:
                    print_log(f"{path}: {len(other)} files are skipped, for example {other[0]}. Supported file "
                              f"suffixes: {', '.join(sorted(IMAGES | VIDEOS))}", level=logging.WARNING)
                if not found:
                    raise UserError(f'{path} has no image or video. Supported file suffixes: '
                                    f"{', '.join(sorted(IMAGES | VIDEOS))}")
            elif path.suffix.lower() not in IMAGES | VIDEOS:
                raise UserError(f"{path} is not an image or video. Supported file suffixes: "
                                f"{', '.join(sorted(IMAGES | VIDEOS))}")
            for source in found:
                sources[os.path.realpath(source.path)] = pages_of(source)
    return [page for pages in sources.values() for page in pages]


def pages_of(source: Source) -> list[Source]:
    """The source itself, or one source per page for a multi-page image. Page numbers in names start at 1."""
    suffix = source.path.suffix.lower()
    if suffix not in IMAGES:
        return [source]
    try:
        with Image.open(source.path) as image:
            count = getattr(image, 'n_frames', 1) if image.format != 'MPO' else 1  # MPO: a JPEG with previews
    except Exception:  # Pillow raises many types of errors for damaged files; `frames_of` reports them
        count = 1
    writable = suffix in TIFF or (count == 1 and suffix != '.gif')  # OpenCV can write these formats
    ending = source.name.suffix if writable else '.png'
    if count == 1:
        return [Source(source.path, source.name.with_suffix(ending))]
    return [Source(source.path, source.name.with_name(f'{source.name.stem}_page{page + 1}{ending}'), page)
            for page in range(count)]


def read_page(source: Source, colour: str = 'color') -> np.ndarray[Any, Any] | None:
    """Read the image of a source in BGR, or None.

    Args:
        source: the file and page.
        colour: 'color' for an image (H, W, 3), 'grayscale' for (H, W), 'unchanged' for the channels of the file, as in
            `LoadImageFromFile`.
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


def warn_of_deep_images(sources: Iterable[Source]) -> None:
    """Warn if images have more than 8 bits per channel, which are not read completely."""
    deep = []
    for source in sources:
        with suppress(UserError):  # `frames_of` reports damaged files
            if not source.is_video and read_header(source.path).bits > 8:
                deep.append(source.path)
    if deep:
        print_log(f'{len(deep)} images have more than 8 bits per channel, for example {deep[0]}: {ONLY_8_BITS}',
                  level=logging.WARNING)


def in_grey(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert an image (H, W, 3) in BGR to grey (H, W)."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def in_colour(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert an image with any number of channels to (H, W, 3), for drawing."""
    if image.ndim == 2 or image.shape[2] < 3:
        return np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def number_of_frames(source: Source) -> int:
    """1 for an image; the frame count in the header of a video."""
    return max(1, int(cv2.VideoCapture(str(source.path)).get(cv2.CAP_PROP_FRAME_COUNT))) if source.is_video else 1


def frames_of(source: Source, colour: str = 'color') -> Iterator[Frame]:
    """Yield the image of a file, or the frames of a video, as `read_page` reads them.

    Raises:
        UnreadableError: the file has no readable image or frame.
    """
    if not source.is_video:
        try:  # OpenCV fills the missing part of a truncated file with grey, so check the end first
            whole = source.path.stat().st_size and not ends_early(source.path)
            image = read_page(source, colour) if whole else None
        except Exception:  # a broken link, a damaged page, more pixels than OpenCV supports
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
        raise UnreadableError(f'{source.path} cannot be read as a video')
