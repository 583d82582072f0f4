"""Classes and counts of label maps, and every error."""
import re

import numpy as np
import pytest
from PIL import Image

from mmmambavision.openmmlab.own_data.label_maps import class_names, survey

from ...helpers.data import write_label_maps
from ...helpers.messages import facts


def surveyed(folder):
    return survey('train', folder / 'images' / 'train', folder / 'labels' / 'train')


def label_map(folder, name='a'):
    return folder / 'labels' / 'train' / f'{name}.png'


def test_counts(folder):
    write_label_maps(folder, (0, 1, 3, 255))
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(label_map(folder))
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(label_map(folder, 'more'))
    found, ending = surveyed(folder)
    assert ending == '.png' and found.classes == {0: 1, 1: 1, 3: 1} and not found.errors
    assert found.rows == {
        'images': 2, 'image width, min / median / max': '64 / 64 / 64', 'image height': '48 / 48 / 48',
        'missing label maps': 0, 'label maps of no image': 1, 'label maps of another size': 0,
        'label maps of 255 alone': 1, 'label maps with 255': 2}
    no_image, all_255 = found.warnings
    assert 'image' in no_image and no_image.endswith(': 1') and '255' in all_255 and all_255.endswith(': 1')


def test_label_maps_that_are_missing_or_of_another_size(folder):
    write_label_maps(folder)
    label_map(folder).unlink()
    Image.fromarray(np.zeros((48, 63), np.uint8)).save(label_map(folder, 'b'))
    missing, other_size = surveyed(folder)[0].errors
    images, labels = folder / 'images' / 'train', folder / 'labels' / 'train'
    assert re.search(facts('1 of the 2', images, labels, 'a.png'), missing)
    assert re.search(facts(labels, 'size', 'b.png'), other_size)


def test_images_that_cameras_turned(folder):
    """They are read upright, so their label maps have the upright size."""
    write_label_maps(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in 'ab':
        Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(folder / 'images' / 'train' / f'{name}.png', exif=exif)
    assert not surveyed(folder)[0].errors


def test_palettes_are_read_as_numbers(folder):
    write_label_maps(folder)
    image = Image.fromarray(np.full((48, 64), 2, np.uint8), 'P')
    image.putpalette([10, 20, 30] * 256)
    image.save(label_map(folder))
    assert surveyed(folder)[0].classes == {0: 1, 1: 1, 2: 2}


@pytest.mark.parametrize('array, message', [
    (np.zeros((48, 64, 3), np.uint8), facts('a.png', 'colours')),
    (np.full((48, 64), 300, np.uint16), facts('a.png', '300'))])
def test_label_maps_that_are_none(array, message, folder):
    write_label_maps(folder)
    Image.fromarray(array).save(label_map(folder))
    with pytest.raises(ValueError, match=message):
        surveyed(folder)


@pytest.mark.parametrize('kind', ['images', 'labels'])
def test_damaged_files(kind, folder):
    write_label_maps(folder)
    (folder / kind / 'train' / 'a.png').write_bytes(b'\x89PNG')
    with pytest.raises(ValueError, match=f'{kind}/train/a.png'):
        surveyed(folder)
    folders = [folder / part / 'train' for part in ('images', 'labels')]
    found, _ = survey('train', *folders, skip_broken=True)
    assert not found.errors and sum(found.classes.values()) > 0


def test_label_maps_in_colours_are_not_skipped(folder):
    write_label_maps(folder)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(label_map(folder))
    with pytest.raises(ValueError, match='colours'):
        survey('train', *(folder / part / 'train' for part in ('images', 'labels')), skip_broken=True)


@pytest.mark.parametrize('kind', ['images', 'labels'])
def test_files_that_are_cut_off(kind, folder):
    """Unless such files are to be passed over."""
    write_label_maps(folder)
    path = folder / kind / 'train' / 'a.png'
    path.write_bytes(path.read_bytes()[:-12])
    error, = surveyed(folder)[0].errors
    assert str(path) in error and 'cut off' in error
    folders = [folder / part / 'train' for part in ('images', 'labels')]
    assert not survey('train', *folders, skip_broken=True)[0].errors


def test_images_of_sixteen_bits(folder):
    write_label_maps(folder)
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(folder / 'images' / 'train' / 'b.png')
    warning, = surveyed(folder)[0].warnings
    assert '8 bits' in warning and 'b.png' in warning and warning.endswith(': 1')


def test_label_maps_under_other_names(folder):
    write_label_maps(folder)
    for name in 'ab':
        label_map(folder, name).rename(label_map(folder, f'{name}_mask'))
    with pytest.raises(ValueError, match=facts(folder / 'labels' / 'train', 'a.png')):
        surveyed(folder)


def test_no_images_or_of_several_endings(folder):
    write_label_maps(folder)
    Image.new('RGB', (64, 48)).save(folder / 'images' / 'train' / 'c.jpg')
    with pytest.raises(ValueError, match=facts('.png', '.jpg')):
        surveyed(folder)
    with pytest.raises(ValueError, match='nowhere'):
        survey('train', folder / 'nowhere', folder / 'labels' / 'train')


@pytest.mark.parametrize('orientation, size', [(2, (64, 48)), (3, (64, 48)), (6, (48, 48))])
def test_images_that_are_turned_without_another_size_are_named(orientation, size, folder):
    write_label_maps(folder, size=size[::-1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    for name in 'ab':
        (folder / 'images' / 'train' / f'{name}.png').unlink()
        Image.fromarray(pixels).save(folder / 'images' / 'train' / f'{name}.jpg', exif=exif)
    found, _ = surveyed(folder)
    assert not found.errors and re.search(r'EXIF orientation.*: 2$', ' '.join(found.warnings))


def test_class_names(folder):
    folder.mkdir()
    with pytest.raises(ValueError, match=facts('129', 'classes.txt')):
        class_names(folder, [0, 128])
    assert class_names(folder, [0, 2, 255]) == ('class_0', 'class_1', 'class_2')
    with pytest.raises(ValueError, match=facts('1 class', '0, 255')):
        class_names(folder, [0, 255])
    (folder / 'classes.txt').write_text('road\n car \n\n')
    assert class_names(folder, [0]) == ('road', 'car')
    for text, message in (('\ufeffgrün\ncar\ncar', "'car'"), ('\ufeffgrün', '1 class')):
        (folder / 'classes.txt').write_text(text, encoding='utf-8')
        with pytest.raises(ValueError, match=message):
            class_names(folder, [0])
    (folder / 'classes.txt').write_text('\ufeffgrün\nrot', encoding='utf-8')
    assert class_names(folder, [0]) == ('grün', 'rot')
    (folder / 'classes.txt').write_text('grün\nrot', encoding='latin1')
    with pytest.raises(ValueError, match=facts('classes.txt', 'UTF-8')):
        class_names(folder, [0])
    (folder / 'classes.txt').write_text('road')
    with pytest.raises(ValueError, match=facts('1 class', 'classes.txt')):
        class_names(folder, [0])
