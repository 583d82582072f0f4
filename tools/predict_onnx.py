"""Predict with a file of tools/export.py: `python predict_onnx.py FILE IMAGE... [--out DIR] [--json]`.

FILE is a whole detector or segmentor, FILE.onnx or FILE.xml. This script does not need mmmambavision: copy it with FILE
to another machine and `pip install numpy onnxruntime opencv-python-headless`. FILE.xml needs its FILE.bin, and openvino
instead of onnxruntime. IMAGE is an image, a folder or a pattern such as 'photos/*.jpg'.
Like tools/predict.py, it draws boxes and masks, or a segmentor's label map, and writes the pictures to DIR under the
names of the images. --json adds predictions.json in COCO's format, and a segmentor's label maps DIR/labels/NAME.png.
"""
import argparse
import json
import os
import sys
from functools import lru_cache
from glob import glob
from itertools import product
from mimetypes import guess_type
from pathlib import Path
from types import SimpleNamespace

try:
    import cv2
    import numpy as np
except ImportError as missing:
    sys.exit(f'error: {missing}: pip install numpy onnxruntime opencv-python-headless')

IMAGES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'}
KEYS = ('part task classes palette resize pad mask_threshold mask_stride align_corners binary_threshold window '
        'size_divisor mean').split()


class SkippedError(Exception):
    """The reason why an image is skipped."""


class OpenVINOSession:
    """A FILE.xml on the CPU, with the methods of `onnxruntime.InferenceSession` that this script uses."""

    def __init__(self, file):
        import openvino
        self.core = openvino.Core()
        self.model = self.core.read_model(str(file))
        self.compile = lru_cache(4)(self.compile_for)

    def compile_for(self, shape):
        """The model for one size. OpenVINO 2026.4.1 computes wrong values if INT8 is used without a fixed size."""
        model = self.model.clone()
        model.reshape({'images': list(shape)})
        # Without the hint, layers in float32 run in bfloat16 on CPUs that have it.
        return self.core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

    def run(self, _, feeds):
        return list(self.compile(feeds['images'].shape)(feeds, share_outputs=False).values())

    def get_inputs(self):
        return [self.describe(port) for port in self.model.inputs]

    def get_outputs(self):
        return [self.describe(port) for port in self.model.outputs]

    def describe(self, port):
        return SimpleNamespace(name=port.get_any_name(), shape=[
            side.get_length() if side.is_static else None for side in port.get_partial_shape()])

    def get_modelmeta(self):
        texts = self.model.get_rt_info('mmmambavision').value if self.model.has_rt_info('mmmambavision') else {}
        return SimpleNamespace(custom_metadata_map=texts)


def runtime_of(file):
    """The package that runs a file: openvino for FILE.xml, otherwise onnxruntime."""
    name = 'openvino' if file.suffix == '.xml' else 'onnxruntime'
    try:
        return __import__(name)
    except ImportError as missing:
        sys.exit(f'error: {missing}: pip install numpy {name} opencv-python-headless')


def start(file, device):
    """A session of a file."""
    runtime = runtime_of(file)
    if file.suffix == '.xml' and device != 'cpu':
        sys.exit(f'error: --device {device}: {file} runs only on the CPU')
    try:
        if file.suffix == '.xml':
            return OpenVINOSession(file)
        providers = {f'{device.upper()}ExecutionProvider'}.intersection(runtime.get_available_providers())
        runtime.set_default_logger_severity(4)  # its logged errors are also exceptions
        session = runtime.InferenceSession(str(file), providers=list(providers))
    except Exception as error:  # onnxruntime has an exception class for each error code
        sys.exit(f'error: {file} cannot be loaded by {runtime.__name__} {runtime.__version__}: {error}')
    if not providers.intersection(session.get_providers()):
        sys.exit(f'error: --device {device}: onnxruntime cannot use it. Install onnxruntime-gpu, CUDA and cuDNN')
    return session


def load(file, device):
    """A session of a file, and the metadata that tools/export.py wrote."""
    session = start(file, device)
    texts = session.get_modelmeta().custom_metadata_map
    meta = {key: json.loads(texts[key]) for key in texts.keys() & KEYS} if 'part' in texts else {}
    if meta.get('part', 'model') != 'model':
        sys.exit(f"error: {file} contains only the {meta['part']}. Export the whole model with --part model")
    if meta.get('task') in ('classification', 'panoptic'):
        sys.exit(f"error: {file} is for {meta['task']}. This tool is for detectors and segmentors; tools/test.py "
                 'evaluates other files')
    if meta.get('task') not in ('detection', 'segmentation') or not {'classes', 'resize'} <= meta.keys():
        sys.exit(f'error: {file} is not from tools/export.py, or from an older version. Export the model again')
    palette = meta.get('palette') or np.random.RandomState(42).randint(0, 256, (len(meta['classes']), 3))  # as mmdet
    return session, dict(meta, colours=np.array(palette, np.uint8)[:, ::-1])


def run(session, image):
    """The file's outputs by name for an image (H, W, 3) in RGB."""
    (height, width), sides = image.shape[:2], session.get_inputs()[0].shape[2:]
    if any(isinstance(side, int) and side != here for side, here in zip(sides, (height, width))):
        raise SkippedError(f'the file accepts only {sides[0]}x{sides[1]} pixels, but the resized image has '
                           f'{height}x{width}. Export the model without --static')
    images = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    try:
        return dict(zip((output.name for output in session.get_outputs()), session.run(None, dict(images=images))))
    except Exception as error:
        many = ' (the limit of scans is 65,536 tokens, an image of 4096x4096)' if height * width > 4096 ** 2 else ''
        raise SkippedError(f'the runtime fails on {height}x{width} pixels{many}: {error}') from None


def segment(session, meta, image):
    """The label map (H, W) of an image (H, W, 3), uint8 in BGR."""
    logits = slide(session, meta, resize(image, meta['resize'])[..., ::-1])
    rows, columns = (places(new, old, meta['align_corners']) for new, old in zip(image.shape, logits.shape[1:]))
    labels = []
    for strip in np.array_split(rows, -(-len(rows) // 64)):  # in strips, because all logits can need gigabytes
        values = interpolate(logits, strip, columns)
        labels.append(values.argmax(0) if len(values) > 1 else
                      .5 + .5 * np.tanh(.5 * values[0]) > meta['binary_threshold'])  # a sigmoid without overflow
    return np.concatenate(labels).astype(np.uint8 if len(meta['classes']) <= 256 else np.uint16)


def detect(session, meta, image, threshold):
    """Detect objects in an image (H, W, 3), uint8 in BGR.

    Returns:
        COCO annotations without ids, and their masks (H, W). The list of masks is empty if the model has no masks.
    """
    resized = resize(image, meta['resize'])[..., ::-1]
    found = run(session, pad(resized, meta.get('pad')))
    kept = (found['labels'] >= 0) & (found['dets'][:, 4] >= threshold)
    found = {name: values[kept] for name, values in found.items()}
    height, width = (new / old for new, old in zip(resized.shape[:2], image.shape))
    boxes = found['dets'][:, :4] / np.float32([width, height] * 2)
    masks = [paste(mask, box, *image.shape[:2]) >= meta['mask_threshold']
             for mask, box in zip(found.get('masks', ()), boxes)]
    masks += [enlarge(logits, meta['mask_stride'], (1 / width, 1 / height), *image.shape[:2]) > meta['mask_threshold']
              for logits in found.get('mask_logits', ())]
    annotations = [dict(category_id=label + 1, bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), score=score,
                        iscrowd=0) for (x1, y1, x2, y2), score, label in zip(
                            boxes.tolist(), found['dets'][:, 4].tolist(), found['labels'].tolist())]
    for annotation, mask in zip(annotations, masks):
        annotation.update(segmentation=encode(mask), area=int(mask.sum()))
    return annotations, masks


def resize(image, rule):
    """Resize as mmcv's imrescale and imresize."""
    (height, width), size = image.shape[:2], rule['scale'] if rule else image.shape[1::-1]
    if rule and rule['keep_ratio']:
        factor = min(max(size) / max(height, width), min(size) / min(height, width))
        size = [max(int(side * factor + .5), 1) for side in (width, height)]
    return cv2.resize(image, tuple(size), interpolation=cv2.INTER_LINEAR)


def pad(image, rule):
    """Pad an image (H, W, 3) in RGB at the right and the bottom, as mmcv's Pad."""
    if not rule:
        return image
    (height, width), (columns, rows) = image.shape[:2], rule['size']
    padded = np.empty((max(rows, height), max(columns, width), 3), np.uint8)
    padded[:], padded[:height, :width] = rule['value'], image
    return padded


def slide(session, meta, image):
    """Logits (classes, H, W). In slide mode, the mean over windows, as mmseg's slide_inference."""
    if not meta.get('window'):
        return run(session, image)['logits'][0]
    (height, width), divisor, total = image.shape[:2], meta.get('size_divisor') or 1, 0
    padded = np.empty((height + -height % divisor, width + -width % divisor, 3), np.float32)
    padded[:], padded[:height, :width] = meta['mean'] if divisor > 1 else 0, image
    crop, stride, count = meta['window']['crop'], meta['window']['stride'], np.zeros(padded.shape[:2], np.float32)
    starts = ([max(min(i * step, side - size), 0) for i in range(max(side - size + step - 1, 0) // step + 1)]
              for side, size, step in zip(padded.shape, crop, stride))
    for top, left in product(*starts):
        window = slice(top, top + crop[0]), slice(left, left + crop[1])
        logits = run(session, padded[window])['logits'][0]
        total = total if count.any() else np.zeros((len(logits), *count.shape), np.float32)
        total[(slice(None), *window)] += logits
        count[window] += 1
    return (total / count)[:, :height, :width]


def places(new, old, align_corners):
    """Source coordinates of torch's F.interpolate, in `old` pixels, for each of `new` pixels."""
    at = np.arange(new) * (old - 1) / max(new - 1, 1) if align_corners else (np.arange(new) + .5) * old / new - .5
    return at.clip(0, old - 1)


def interpolate(array, rows, columns):
    """Bilinear interpolation of an array (..., H, W) with zeros outside."""
    for axis, at in ((-2, rows[:, None]), (-1, columns)):
        low, values = np.floor(at), 0
        for index, weight in ((low, low + 1 - at), (low + 1, at - low)):
            weight = (weight * (index >= 0) * (index < array.shape[axis])).astype(np.float32)
            values = values + weight * array.take(index.astype(int).ravel(), axis, mode='clip')
        array = values
    return array


def paste(mask, box, height, width):
    """Paste the mask of a box into its image, as probabilities (height, width), like mmdet's FCNMaskHead."""
    region, positions = [], []
    for low, high, cells, side in zip(box[[1, 0]], box[[3, 2]], mask.shape, (height, width)):
        pixels = np.arange(max(np.floor(low) - 1, 0), min(np.ceil(high) + 1, side), dtype=int)
        with np.errstate(divide='ignore', invalid='ignore'):
            part = (pixels + .5 - low) / (high - low)
        region.append(pixels)
        positions.append(np.where(np.isfinite(part), part, .5) * cells - .5)  # mmdet's middle of a box without extent
    image = np.zeros((height, width), np.float32)
    image[np.ix_(*region)] = interpolate(mask, *positions)
    return image


def enlarge(logits, stride, factors, height, width):
    """Enlarge the mask logits of a padded image to the original image, as probabilities (height, width).

    As mmdet's RTMDetInsHead: first by the stride, then by the factors. mmdet multiplies the height by the horizontal
    factor and the width by the vertical one. With a fixed aspect ratio, they differ only by rounding.
    """
    sizes = [side * stride for side in logits.shape]
    logits = interpolate(logits, *(places(new, old, False) for new, old in zip(sizes, logits.shape)))
    ends = zip([int(np.ceil(side * factor)) for side, factor in zip(sizes, factors)], sizes, (height, width))
    logits = interpolate(logits, *(places(new, old, False)[:end] for new, old, end in ends))
    missing = [(0, end - side) for end, side in zip((height, width), logits.shape)]
    return .5 + .5 * np.tanh(.5 * np.pad(logits, missing, constant_values=-100))


def encode(mask):
    """A mask (H, W) in COCO's run-length encoding: column by column, zeros first, differences in 6-bit characters."""
    changes = np.flatnonzero(np.diff(mask.ravel('F'), prepend=False))
    runs, text = np.diff([0, *changes, mask.size]).tolist(), ''
    for i, length in enumerate(runs):
        rest, more = length - runs[i - 2] if i > 2 else length, True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return dict(size=list(mask.shape), counts=text)


def draw_detections(image, annotations, masks, meta):
    """Draw detections as mmdet's DetLocalVisualizer, in the colours of the classes."""
    layer, labels = image.copy(), [annotation['category_id'] - 1 for annotation in annotations]
    for mask, label in zip(masks, labels):
        layer[mask] = meta['colours'][label]
    boxes = [annotation['bbox'] for annotation in annotations]
    for (x, y, width, height), label in zip(boxes, labels):
        corners = (np.array([[x, y], [x + width, y + height]]) * 16 - 8).astype(int).tolist()  # in 16ths of a pixel
        cv2.rectangle(layer, *corners, meta['colours'][label].tolist(), 2, cv2.LINE_AA, shift=4)
    for mask in masks:
        contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(layer, contours, -1, (255, 255, 255), 2, cv2.LINE_AA)
    for (x, y, width, height), label, annotation in zip(boxes, labels, annotations):
        text = f"{meta['classes'][label]}: {round(100 * annotation['score'], 1)}"
        write_label(layer, text, int(x) + 2, int(y) + 2, .3 if width * height < 30000 else .6)
    return cv2.addWeighted(image, .2, layer, .8, 0)


def draw_labels(image, labels, meta):
    """Draw label maps as mmseg's SegLocalVisualizer. The name of a class is in the middle of its longest row."""
    layer = meta['colours'][labels]
    for label in np.unique(labels):
        y = (labels == label).sum(1).argmax()
        row = np.flatnonzero(labels[y] == label)
        write_label(layer, meta['classes'][label], row[len(row) // 2], y, max(min(image.shape[:2]) / 700, .3))
    return cv2.addWeighted(image, .2, layer, .8, 0)


def write_label(image, text, x, y, size):
    """Write a text in a black box with its upper left corner at (x, y), moved if necessary to fit into the image."""
    # OpenCV draws small letters with rough edges, so draw them four times as large and shrink them.
    font, (thick, above, below) = (cv2.FONT_HERSHEY_SIMPLEX, 4 * size), (round(n * size) for n in (8, 108, 36))
    width = cv2.getTextSize(text, *font, thick)[0][0]
    box = np.zeros((above + below + 8, width + 16, 3), np.uint8)
    cv2.putText(box, text, (8, above + 4), *font, (255, 255, 255), thick, cv2.LINE_AA)
    box = cv2.resize(box, None, fx=.25, fy=.25, interpolation=cv2.INTER_AREA)
    y, x = (max(min(at, side - needed), 0) for at, side, needed in zip((y, x), image.shape, box.shape))
    place = image[y:y + box.shape[0], x:x + box.shape[1]]
    place[:] = box[:place.shape[0], :place.shape[1]]


def find_images(names):
    """The images of paths, folders (recursive) and glob patterns, as (path, name), in order and without duplicates."""
    images = {}
    for name in names:
        matches = [Path(name)] if Path(name).exists() else sorted(map(Path, glob(name, recursive=True)))
        if not matches:
            sys.exit(f'error: {name}: no file or folder has this name or matches it as a pattern')
        for path in matches:
            root, files = (path, sorted(path.rglob('*'))) if path.is_dir() else (path.parent, [path])
            found = [file for file in files if file.suffix.lower() in IMAGES and not file.is_dir()]
            other = [file.name for file in files if file.suffix.lower() not in IMAGES
                     and str(guess_type(file.name)[0]).startswith(('image/', 'video/'))]
            if found and other:
                print(f"warning: {path}: {len(other)} files are skipped, for example {other[0]}. Supported file "
                      f"suffixes: {', '.join(sorted(IMAGES))}", file=sys.stderr)
            if not found:
                sys.exit(f"error: {path} has no image. Supported file suffixes: {', '.join(sorted(IMAGES))}")
            images.update((os.path.realpath(file), (file, file.relative_to(root))) for file in found)
    return list(images.values())


def check_targets(out, images, numbers, segments):
    """Check that no output file exists already, and that no two inputs have the same output."""
    targets = {}
    for path, name in images:
        for target in (name, Path('labels', name).with_suffix('.png'))[:1 + (numbers and segments)]:
            if targets.setdefault(out / target, path) is not path:
                sys.exit(f'error: {targets[out / target]} and {path} would both be written to {out / target}. Predict '
                         'them separately, each with its own --out')
    planned = [*targets, *([out / 'predictions.json', out / 'labels'] if numbers else [])]
    if there := [str(path) for path in planned if path.exists()]:
        sys.exit(f"error: not overwritten: {', '.join(there[:3])}{' and others' if len(there) > 3 else ''}; --out "
                 'NEW_FOLDER writes elsewhere')


def write(path, content):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        sys.exit(f'error: {path} cannot be written: {error.strerror}')


def cut_off(data):
    """Whether a JPEG or PNG ends before its end marker. OpenCV fills the missing part with grey."""
    if data.startswith(b'\xff\xd8'):
        return data.find(b'\xff\xd9', data.rfind(b'\xff\xda')) < 0  # earlier scans can be of a thumbnail
    return data.startswith(b'\x89PNG') and b'IEND\xaeB`\x82' not in data


def predict(session, meta, path, name, args, coco):
    """Predict an image, write the picture and the label map, and add the predictions to the lists of `coco`."""
    try:  # imread does not support all paths on Windows
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except (OSError, cv2.error):  # a broken link, no permission, an empty file, more pixels than OpenCV supports
        image = None
    if image is None:
        raise SkippedError('it is not a readable image')
    if cut_off(data.tobytes()):
        raise SkippedError('the file is cut off')
    if path.suffix.lower() not in ('.jpg', '.jpeg', '.bmp') and (pages := cv2.imcount(str(path))) > 1:
        print(f'warning: {path} has {pages} pages or frames. Only the first is read', file=sys.stderr)
    entry = dict(id=len(coco['images']) + 1, file_name=str(name), height=image.shape[0], width=image.shape[1])
    if meta['task'] == 'segmentation':
        labels, entry['label_file'] = segment(session, meta, image), str(Path('labels', name).with_suffix('.png'))
        picture = draw_labels(image, labels, meta)
        if args.json:
            write(args.out / entry['label_file'], cv2.imencode('.png', labels)[1])
    else:
        annotations, masks = detect(session, meta, image, args.threshold)
        picture = draw_detections(image, annotations, masks, meta)
        for number, annotation in enumerate(annotations, len(coco['annotations']) + 1):
            coco['annotations'].append(dict(id=number, image_id=entry['id'], **annotation))
    write(args.out / name, cv2.imencode(name.suffix, picture)[1])
    coco['images'].append(entry)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', type=Path, metavar='FILE', help='FILE.onnx or FILE.xml of a whole model')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images, folders or patterns')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write to; default %(default)s')
    parser.add_argument('--threshold', type=float, default=.3, help='minimum score of boxes; default 0.3')
    parser.add_argument('--json', action='store_true', help='also write predictions.json and label maps')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default %(default)s')
    args = parser.parse_args(argv)
    if not 0 <= args.threshold <= 1:
        sys.exit(f'error: --threshold {args.threshold} must be between 0 and 1')
    runtime_of(args.file)  # fail before the images are searched
    images, (session, meta) = find_images(args.images), load(args.file, args.device)
    segments = meta['task'] == 'segmentation'
    check_targets(args.out, images, args.json, segments)
    coco = dict(images=[], categories=[dict(id=i, name=name) for i, name in enumerate(meta['classes'], not segments)])
    skipped, coco = [], coco if segments else dict(coco, annotations=[])
    for number, (path, name) in enumerate(images, 1):
        if sys.stderr.isatty():
            print(f'\rpredicting {number}/{len(images)}', end='\n' * (number == len(images)), file=sys.stderr)
        try:
            predict(session, meta, path, name, args, coco)
        except SkippedError as error:
            skipped.append(f'skipped: {path}: {error}')
    if args.json:
        write(args.out / 'predictions.json', json.dumps(coco).encode())
    print(*skipped, sep='\n', end='\n' * bool(skipped), file=sys.stderr)
    print(f'{len(images) - len(skipped)} of {len(images)} inputs predicted, in {args.out}')
    sys.exit(bool(skipped))


if __name__ == '__main__':
    main()
