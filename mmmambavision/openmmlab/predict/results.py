"""Write predictions to disk: drawn images and videos, a COCO json, and label maps."""
import json

import cv2

from ...errors import UserError


class Results:
    """A folder of predictions. Existing files are never overwritten.

    Args:
        folder: output folder.
        sources: inputs from `find_inputs`.
        numbers: whether to write predictions.json and label maps, too.
        segments: whether the model is a segmentor, with label maps.

    Raises:
        UserError: an output file exists already, or two inputs have the same output name.
    """

    def __init__(self, folder, sources, numbers, segments=False):
        self.folder, self.numbers, self.video = folder, numbers, None
        self.coco = dict(images=[], annotations=[])
        if folder.exists() and not folder.is_dir():
            raise UserError(f'{folder} is a file, but the output must be a folder', 'out')
        targets = {}
        for source in sources:
            for target in (self.picture(source), *([self.labels(source)] if numbers and segments else [])):
                if target in targets:
                    raise UserError(f'{targets[target]} and {source.path} would both be written to {target}. Predict '
                                    'them separately, each into its own folder', 'out')
                targets[target] = source.path
        planned = [*targets, *([folder / 'predictions.json', folder / 'labels'] if numbers else [])]
        if there := [str(path) for path in planned if path.exists()]:
            raise UserError(f"files exist already: {', '.join(there[:3])}{' and others' if len(there) > 3 else ''}. "
                            'Choose another folder', 'out')

    def picture(self, source):
        return self.folder / (source.name.with_suffix('.mp4') if source.is_video else source.name)

    def labels(self, source, number=0):
        ending = f'.{number:06d}.png' if source.is_video else '.png'
        return self.folder / 'labels' / source.name.with_suffix(ending)

    def add(self, frame, drawn, numbers):
        """Write the predictions of a frame: the drawn image, and a label map or annotations."""
        target = self.picture(frame.source)
        self._make(target.parent)
        height, width = drawn.shape[:2]
        if not frame.source.is_video:
            self._write(target, drawn)
        else:
            if frame.number == 0:
                self.close()
                codec = cv2.VideoWriter_fourcc(*'mp4v')
                self.video = cv2.VideoWriter(str(target), codec, frame.rate or 25, (width, height))
                if not self.video.isOpened():
                    raise UserError(f'{target} cannot be written. Check the disk space and the folder permissions')
            self.video.write(drawn)
        if not self.numbers:
            return
        name = f'{frame.source.name}:{frame.number}' if frame.source.is_video else str(frame.source.name)
        image = dict(id=len(self.coco['images']) + 1, file_name=name, height=height, width=width)
        if isinstance(numbers, list):
            for annotation in numbers:
                self.coco['annotations'].append(
                    dict(id=len(self.coco['annotations']) + 1, image_id=image['id'], **annotation))
        else:
            path = self.labels(frame.source, frame.number)
            image['label_file'] = str(path.relative_to(self.folder))
            self._make(path.parent)
            self._write(path, numbers)
        self.coco['images'].append(image)

    @staticmethod
    def _make(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{folder} cannot be created: {error.strerror}') from None

    @staticmethod
    def _write(path, pixels):
        if not cv2.imwrite(str(path), pixels):
            raise UserError(f'{path} cannot be written. Check the disk space and the folder permissions')

    def finish(self, classes, segments):
        """Write predictions.json. Class numbers start at 0 in label maps, and at 1 in COCO annotations."""
        if not self.numbers:
            return
        categories = [dict(id=i + (not segments), name=name) for i, name in enumerate(classes)]
        content = dict(images=self.coco['images'], categories=categories)
        if not segments:
            content['annotations'] = self.coco['annotations']
        (self.folder / 'predictions.json').write_text(json.dumps(content))

    def close(self):
        if self.video:
            self.video.release()
            self.video = None

    def __enter__(self):
        self._make(self.folder)
        return self

    def __exit__(self, *_):
        self.close()
