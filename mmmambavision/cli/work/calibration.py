"""Images of a folder as inputs of an exported file, to calibrate INT8."""
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import MODELS
from rich.progress import track

from ...errors import UserError
from ...openmmlab.predict.inputs import Source, UnreadableError, find_inputs, frames_of
from .test import replace_model

MOST, FEWEST = 300, 10


def find_images(folder: str) -> list[Source]:
    """Up to 300 readable images of a folder, evenly spaced in the sorted files.

    Raises:
        UserError: the folder has no readable image, or each image has only one colour.
    """
    sources = [source for source in find_inputs([folder]) if not source.is_video]
    chosen = np.linspace(0, len(sources) - 1, min(len(sources), MOST)).round().astype(int)
    found, plain = [], 0
    for index in track(chosen, 'reading the calibration images'):
        try:
            frame = next(frames_of(sources[index]))
        except UnreadableError as error:
            print(f'skipped: {error}')
            continue
        found.append(sources[index])
        plain += bool((frame.image == frame.image[:1, :1]).all())
    if not found:
        raise UserError(f'{folder} has no readable image. INT8 needs images like those to predict on, best {MOST}')
    if plain == len(found):
        raise UserError(f'each image of {folder} has only one colour, for example {found[0].path}. INT8 needs images '
                        'like those to predict on')
    if len(found) < FEWEST:
        print(f'warning: {folder} has only {len(found)} images to calibrate with. INT8 loses accuracy with fewer than '
              f'{FEWEST}; {MOST} are best')
    return found


class Inputs:
    """The inputs of a file when its images are predicted: resized and padded, and windows in slide mode.

    An iterable of arrays (1, 3, H, W), read again in each iteration. A segmentor with sliding windows gets one window
    of each image.

    Args:
        file: the exported file.
        sources: images.
        cfg: config of the file.
    """

    def __init__(self, file: Path, sources: list[Source], cfg: Any) -> None:
        if cfg.get('default_scope') == 'mmseg':
            from mmseg.apis import inference_model as infer
        else:
            from mmdet.apis import inference_detector as infer
        exported = copy.deepcopy(cfg)
        replace_model(exported, str(file))
        self.model = MODELS.build(exported.model)
        self.model.cfg, self.sources, self.infer = cfg, sources, infer
        self.sides = [side for side in self.model.session.get_inputs()[0].shape[2:] if isinstance(side, int)]
        self.model.session = self.recorder = Recorder(self.model)

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        for number, source in enumerate(self.sources):
            self.recorder.inputs = []
            self.infer(self.model, next(frames_of(source)).image)
            images = self.recorder.inputs[number % len(self.recorder.inputs)]
            if self.sides and list(images.shape[2:]) != self.sides:
                raise UserError(f'the file accepts only {self.sides[0]}x{self.sides[1]} pixels, but {source.path} has '
                                f'{images.shape[2]}x{images.shape[3]} after resizing. Export without a fixed size')
            yield images


class Recorder:
    """A model's session that keeps its inputs. For the windows of a segmentor, which can be many, it predicts zeros."""

    def __init__(self, model: Any) -> None:
        self.inputs: list[np.ndarray[Any, Any]] = []
        self.session, self.channels = model.session, getattr(model, 'out_channels', None)

    def run(self, names: Any, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        images = feeds['images']
        self.inputs.append(images)
        if self.channels:
            return [np.zeros((len(images), self.channels, *images.shape[2:]), np.float32)]
        return self.session.run(names, feeds)
