"""Draw a data set of shapes, train a model and evaluate it: `python tools/demo/demo.py [CONFIG]`.

Every run has its own folder. The data set is drawn only once.
"""
import argparse
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np

TOOLS = Path(os.path.relpath(Path(__file__).parents[1]))
DATA = Path('data/shapes')
OBJECTS = DATA / 'objects'  # for classifiers
CONFIG = Path('configs/cascade_mask_rcnn_mambavision_demo.py')


# Hide all warnings except torch's warning about an old driver. With such a driver, torch trains on the CPU.
QUIETLY = [sys.executable, '-W', 'ignore', '-W', 'default:CUDA initialization']


def call(script, *arguments):
    command = [str(TOOLS / script), *map(str, arguments)]
    print('$ python', *command, flush=True)
    # One thread, because the networks are too small for more. On busy cores, threads would wait for each other.
    subprocess.run([*QUIETLY, *command], check=True, env={'OMP_NUM_THREADS': '1', **os.environ})


def sheet(pictures, columns=2, scale=2):
    """Combine pictures of the same size into an enlarged grid with `columns` columns."""
    images = [cv2.imread(str(path)) for path in pictures]
    images = [cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for image in images]
    images = [cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255)) for image in images]
    rows = [np.concatenate(images[i:i + columns], axis=1) for i in range(0, len(images), columns)]
    return np.concatenate(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, nargs='?', default=CONFIG, help='config on the shapes data set')
    config = parser.parse_args().config
    classifies = config.parent.name == 'classification'
    name = f'{config.parent.name}_{config.stem}' if classifies else config.stem
    work_dir = Path('work_dirs', name, datetime.now().strftime('%Y%m%d_%H%M%S'))
    try:
        if not DATA.exists():
            call('demo/make_shapes_dataset.py', DATA, '--task', 'coloured')
        if classifies and not OBJECTS.exists():
            call('demo/crop_objects.py', DATA / 'coco', OBJECTS)
        call('train.py', config, '--work-dir', work_dir)
        checkpoint = Path((work_dir / 'last_checkpoint').read_text().strip())
        pictures = (work_dir / 'pictures').resolve()
        call('test.py', config, checkpoint, '--work-dir', work_dir / 'test', '--show-dir', pictures)
        call('plot_curves.py', work_dir)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    drawn = sorted(pictures.rglob('*.jpg')) + sorted(pictures.rglob('*.png'))
    what = 'Ground truth (left) and predictions (right)'
    if classifies:
        drawn, what = drawn[::max(1, len(drawn) // 8)], 'Ground truth and predictions'
    picture = sheet(drawn[:8], columns=4, scale=1) if classifies else sheet(drawn[:8])
    cv2.imwrite(str(work_dir / 'predictions.png'), picture)
    print(f'\n{what}: {work_dir}/predictions.png, all of them in {pictures.relative_to(Path.cwd())}; '
          f'curves: {work_dir}/curves.png; model: {checkpoint}')
    if not classifies:
        print(f"To predict on another picture, for example one of the data set: python {TOOLS / 'predict.py'} "
              f"{DATA / 'coco/val2017/000000.jpg'} --config {config} --checkpoint {checkpoint} "
              f"--out {work_dir / 'on_a_picture'}")


if __name__ == '__main__':
    main()
