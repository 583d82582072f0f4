"""Which files a command line names, what is read from them, and where predictions on them go."""
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmmambavision.errors import UserError
from mmmambavision.openmmlab.predict.inputs import (
    Frame,
    Source,
    UnreadableError,
    find_inputs,
    frames_of,
    in_colour,
    number_of_frames,
    warn_of_deep_images,
)
from mmmambavision.openmmlab.predict.results import Results

from ..helpers.messages import facts

IMAGE = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)


def write_video(path, frames, rate=12):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate, (32, 24))
    for value in range(frames):
        writer.write(np.full((24, 32, 3), 20 * value, np.uint8))
    writer.release()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'in' / 'deep').mkdir(parents=True)
    for name in ('b.png', 'a.JPG', 'deep/c.bmp'):
        cv2.imwrite(str(tmp_path / 'in' / name), IMAGE)
    (tmp_path / 'in' / 'notes.txt').write_text('no image')
    write_video(tmp_path / 'in' / 'v.avi', 3)
    return tmp_path / 'in'


def test_folders_patterns_and_files(folder):
    found = find_inputs([str(folder)])
    assert [str(source.name) for source in found] == ['a.JPG', 'b.png', 'deep/c.bmp', 'v.avi']
    assert [source.is_video for source in found] == [False, False, False, True]
    assert find_inputs([str(folder / '*.png'), str(folder / 'b.png')]) == [Source(folder / 'b.png', Path('b.png'))]
    assert [s.path.name for s in find_inputs([f'{folder}/**/*.bmp', str(folder / 'a.JPG')])] == ['c.bmp', 'a.JPG']


@pytest.mark.parametrize('name, message', [
    ('nothing', facts('nothing', 'pattern')), ('empty', facts('empty', '.avi', '.bmp')),
    ('in/notes.txt', facts('notes.txt', '.avi', '.bmp'))])
def test_nothing_to_predict_on(folder, name, message):
    (folder.parent / 'empty').mkdir()
    with pytest.raises(UserError, match=message):
        find_inputs([str(folder.parent / name)])


def test_images_that_are_passed_over_are_named(folder, capfd):
    (folder / 'deep' / 'x.ppm').write_bytes(b'P6 1 1 255\n...')
    assert len(find_inputs([str(folder)])) == 4
    assert re.search(facts('x.ppm', '1 files', '.webp'), ''.join(capfd.readouterr()))


@pytest.mark.parametrize('ending', ['.png', '.jpg'])
@pytest.mark.parametrize('contents, word', [(slice(0, -100), 'cut off'), (b'version https://git-lfs', 'git lfs pull')])
def test_files_that_are_no_whole_images_are_told_by_what_they_are(ending, contents, word, tmp_path):
    path = tmp_path / f'a{ending}'
    cv2.imwrite(str(path), IMAGE)
    path.write_bytes(path.read_bytes()[contents] if isinstance(contents, slice) else contents)
    with pytest.raises(UnreadableError, match=facts(path, word)):
        list(frames_of(Source(path, Path(path.name))))


def test_every_page_of_an_image_is_predicted_on(tmp_path):
    pages = [Image.fromarray(np.full((24, 32, 3), value, np.uint8)) for value in (10, 120, 240)]
    for name in ('a.tif', 'b.gif'):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / 'c.gif')
    found = find_inputs([str(tmp_path)])
    assert [str(source.name) for source in found] == [
        'a_page1.tif', 'a_page2.tif', 'a_page3.tif', 'b_page1.png', 'b_page2.png', 'b_page3.png', 'c.png']
    values = [frame.image for source in found for frame in frames_of(source)]
    assert all(image.shape == (24, 32, 3) for image in values)
    assert [round(image.mean()) for image in values] == [10, 120, 240] * 2 + [120]


@pytest.mark.parametrize('name', ['a.webp', 'a.png'])
def test_every_frame_of_an_animation_is_predicted_on(name, tmp_path):
    frames = [Image.fromarray(np.full((24, 32, 3), value, np.uint8)) for value in (10, 120, 240)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    found = find_inputs([str(tmp_path)])
    assert [str(source.name) for source in found] == ['a_page1.png', 'a_page2.png', 'a_page3.png']
    assert [round(frame.image.mean()) for source in found for frame in frames_of(source)] == [10, 120, 240]


def test_damaged_pages_leave_the_other_files(folder):
    pages = [Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)) for _ in range(3)]
    pages[0].save(folder / 'a.tif', save_all=True, append_images=pages[1:])
    whole = (folder / 'a.tif').read_bytes()
    for size in range(10, len(whole), 997):
        (folder / 'a.tif').write_bytes(whole[:size])
        damaged = [source for source in find_inputs([str(folder)]) if source.path.name == 'a.tif']
        for source in damaged:
            try:
                list(frames_of(source))
            except UnreadableError as error:
                assert 'a.tif' in str(error)


@pytest.mark.parametrize('colour, shape', [('color', (24, 32, 3)), ('grayscale', (24, 32)), ('unchanged', (24, 32, 4))])
def test_channels_of_the_pipeline(colour, shape, tmp_path):
    rgba = Image.fromarray(np.full((24, 32, 4), 90, np.uint8))
    rgba.save(tmp_path / 'a.png')
    image, = frames_of(Source(tmp_path / 'a.png', Path('a.png')), colour)
    assert image.image.shape == shape and in_colour(image.image).shape == (24, 32, 3)
    assert (in_colour(image.image) == 90).all()


def test_frames(folder):
    image, = frames_of(Source(folder / 'b.png', Path('b.png')))
    assert np.array_equal(image.image, IMAGE) and number_of_frames(image.source) == 1
    video = Source(folder / 'v.avi', Path('v.avi'))
    frames = list(frames_of(video))
    assert number_of_frames(video) == 3 and [frame.number for frame in frames] == [0, 1, 2]
    assert [round(frame.image.mean() / 20) for frame in frames] == [0, 1, 2] and frames[0].rate == 12


@pytest.mark.parametrize('name, content', [
    ('x.jpg', b'no image'), ('x.png', b''), ('x.mp4', b'no video'), ('x.avi', b'')])
def test_unreadable(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableError, match=name):
        list(frames_of(Source(tmp_path / name, Path(name))))


def test_results_of_a_detector(folder, tmp_path):
    sources = find_inputs([str(folder)])
    annotation = dict(category_id=2, bbox=[1., 2., 10., 5.], area=50., score=.5, iscrowd=0)
    with Results(tmp_path / 'out', sources, numbers=True) as results:
        for source in sources:
            for frame in frames_of(source):
                results.add(frame, frame.image, [annotation] * (1 + frame.number))
        results.finish(('cat', 'dog'), segments=False)
    coco = COCO(str(tmp_path / 'out' / 'predictions.json'))
    assert [image['file_name'] for image in coco.imgs.values()] == [
        'a.JPG', 'b.png', 'deep/c.bmp', 'v.avi:0', 'v.avi:1', 'v.avi:2']
    assert [len(coco.getAnnIds(imgIds=i)) for i in coco.imgs] == [1, 1, 1, 1, 2, 3]
    assert coco.cats == {1: dict(id=1, name='cat'), 2: dict(id=2, name='dog')}
    assert (coco.imgs[1]['height'], coco.imgs[1]['width']) == (24, 32)
    assert np.array_equal(cv2.imread(str(tmp_path / 'out' / 'b.png')), IMAGE)
    assert len(list(frames_of(Source(tmp_path / 'out' / 'v.mp4', Path('v.mp4'))))) == 3


def test_results_of_a_segmentor(tmp_path):
    labels = np.arange(24 * 32).reshape(24, 32).astype(np.uint16)
    cv2.imwrite(str(tmp_path / 'x.jpg'), IMAGE)
    sources = find_inputs([str(tmp_path / 'x.jpg')])
    results = Results(tmp_path / 'out', sources, numbers=True)
    results.add(Frame(sources[0], IMAGE), IMAGE, labels)
    results.finish(('sky', 'tree'), segments=True)
    content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert content == dict(images=[dict(id=1, file_name='x.jpg', height=24, width=32, label_file='labels/x.png')],
                           categories=[dict(id=0, name='sky'), dict(id=1, name='tree')])
    assert np.array_equal(cv2.imread(str(tmp_path / 'out' / 'labels' / 'x.png'), cv2.IMREAD_UNCHANGED), labels)


def test_nothing_is_overwritten(folder, tmp_path):
    sources = find_inputs([str(folder)])
    with pytest.raises(UserError, match=facts('a.JPG', 'b.png', 'c.bmp')):
        Results(folder, [*sources[:3], Source(folder / 'notes.txt', Path('notes.txt'))], numbers=False)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'predictions.json').write_text('mine')
    with pytest.raises(UserError, match='predictions.json'):
        Results(tmp_path / 'out', sources, numbers=True)
    Results(tmp_path / 'out', sources, numbers=False)
    with pytest.raises(UserError, match='b.png'):
        Results(folder / 'b.png', sources, numbers=False)
    twin = Source(folder / 'deep' / 'c.bmp', Path('b.png'))
    with pytest.raises(UserError, match=facts(folder / 'b.png', 'c.bmp', tmp_path / 'new' / 'b.png')):
        Results(tmp_path / 'new', [*sources, twin], numbers=False)


def test_a_folder_that_cannot_be_written_to(folder, tmp_path):
    source = Source(folder / 'b.png', Path('b.png'))
    results = Results(tmp_path / 'out', [source], numbers=False)
    (tmp_path / 'out' / 'b.png').mkdir(parents=True)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / 'out' / 'b.png'))):
        results.add(Frame(source, IMAGE), IMAGE, [])


def test_images_of_more_than_eight_bits_are_reported(folder, tmp_path, capsys):
    """Damaged files and videos are passed over here."""
    (tmp_path / 'in' / 'damaged.png').write_bytes(b'\x89PNG')
    write_video(tmp_path / 'in' / 'v.avi', 2)
    warn_of_deep_images(find_inputs([str(tmp_path / 'in')]))
    assert capsys.readouterr().out == ''
    cv2.imwrite(str(tmp_path / 'in' / 'x.png'), IMAGE.astype(np.uint16) * 10)
    warn_of_deep_images(find_inputs([str(tmp_path / 'in')]))
    said = capsys.readouterr().out
    assert 'x.png' in said and '1 images' in said and '8 bits' in said
