"""What image files are beside what annotations say of them, and annotations in other tools' forms."""
import copy
import json
import re
import shutil
import unicodedata
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from mmmambavision.errors import UserError
from mmmambavision.openmmlab.image_files import read_header
from mmmambavision.openmmlab.own_data import draw_samples, prepare

from ...helpers.data import DETECTOR, SEGMENTOR, coco_contents, recipe, write_both, write_label_maps, write_split
from ...helpers.messages import facts
from ...helpers.process import ROOT


def prepared(folder, tmp_path, config=DETECTOR, **settings):
    cfg = Config.fromfile(ROOT / config) if isinstance(config, str) else config
    cfg.work_dir = str(tmp_path / 'work_dir')
    cfg.merge_from_dict(settings)
    return cfg, *prepare(cfg, folder, quiet=True)


def turned(path, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)


def refused(folder, tmp_path, *words, **settings):
    with pytest.raises(UserError, match=facts(*words)):
        prepared(folder, tmp_path, **settings)


def test_a_photo_that_is_turned_when_it_is_read(folder, tmp_path):
    write_both(folder)
    turned(folder / 'train' / '2.png')
    refused(folder, tmp_path, '1 images', 'EXIF', '2.png', '64x48', '48x64')
    contents = coco_contents()
    contents['images'][1].update(width=48, height=64)  # as it is read
    (folder / 'annotations' / 'instances_train.json').write_text(json.dumps(contents))
    prepared(folder, tmp_path)


def test_a_pipeline_that_turns_nothing(folder, tmp_path):
    write_both(folder)
    turned(folder / 'train' / '2.png')
    prepared(folder, tmp_path, **{'train_dataloader.dataset.pipeline.0.color_type': 'color_ignore_orientation'})


def test_an_orientation_that_keeps_the_sides(folder, tmp_path):
    write_both(folder)
    turned(folder / 'train' / '2.png', 3)
    prepared(folder, tmp_path)


def test_other_sizes_than_the_annotations_say(folder, tmp_path):
    write_both(folder)
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(folder / 'val' / '1.png')
    refused(folder, tmp_path, '1 images', '1.png', '64x48', '48x64')


@pytest.mark.parametrize('colours', [False, True])
def test_sixteen_bits(colours, folder, tmp_path):
    import cv2
    write_both(folder)
    cv2.imwrite(str(folder / 'train' / '3.png'), np.full((48, 64, 3) if colours else (48, 64), 3520, np.uint16))
    _, warnings, _ = prepared(folder, tmp_path)
    warning, = [warning for warning in warnings if '8 bits' in warning]
    assert '3.png' in warning and warning.endswith(': 1')


@pytest.mark.parametrize('contents, word', [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n', 'git lfs pull'), (b'', 'empty'),
    (b'text', 'image')])
def test_files_that_are_no_images(contents, word, folder, tmp_path):
    write_both(folder)
    (folder / 'train' / '4.png').write_bytes(contents)
    refused(folder, tmp_path, '1 images', '4.png', word)
    prepared(folder, tmp_path, skip_broken_images=True)


@pytest.mark.parametrize('kind, word', [('fractions', 'fractions'), ('corners', 'corners')])
def test_boxes_of_other_formats(kind, word, folder, tmp_path):
    contents = coco_contents()
    for annotation in contents['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x / 64, y / 48, width / 64, height / 48] if kind == 'fractions' else [
            x + 20, y + 10, x + width + 20, y + height + 10]
    refused(write_both(folder, contents), tmp_path, '8 boxes', word)


@pytest.mark.parametrize('form', ['flat', 'points', 'list of points', 'mixed'])
def test_polygons_of_other_forms(form, folder, tmp_path):
    contents = coco_contents()
    expected = copy.deepcopy(contents['annotations'])
    for index, annotation in enumerate(contents['annotations']):
        flat, = annotation['segmentation']
        points = [flat[i:i + 2] for i in range(0, len(flat), 2)]
        annotation['segmentation'] = {'flat': flat, 'points': points, 'list of points': [points],
                                      'mixed': [flat] if index % 2 else points}[form]
    cfg, _, changes = prepared(write_both(folder, contents), tmp_path)
    assert cfg.model.roi_head.mask_head and any('copy' in change for change in changes)
    written = json.loads((tmp_path / 'work_dir' / 'annotations' / 'train.json').read_text())['annotations']
    assert [a['segmentation'] for a in written] == [a['segmentation'] for a in expected]


@pytest.mark.parametrize('name', ['rtmdet_ins_mambavision_t_100e', 'cascade_mask_rcnn_mambavision_demo'])
def test_run_lengths_are_trained_on(name, folder, tmp_path):
    contents = coco_contents()
    masks = []
    for annotation in contents['annotations']:
        x, y, width, height = annotation['bbox']
        masks.append(np.zeros((48, 64), np.uint8, order='F'))
        masks[-1][y:y + height, x:x + width - 3] = 1
        encoded = coco_mask.encode(masks[-1])
        annotation['segmentation'] = dict(size=[48, 64], counts=encoded['counts'].decode())
    cfg, _, _ = prepared(write_both(folder, contents), tmp_path, recipe(name))
    init_default_scope('mmdet')
    steps = [step for step in cfg.train_dataloader.dataset.pipeline if 'Load' in step.type]
    sample = DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=steps))[0]
    assert isinstance(sample['gt_masks'], BitmapMasks) and not sample['gt_ignore_flags'].any()
    assert np.array_equal(sample['gt_masks'].masks, masks[:2])


def test_names_that_differ_by_blanks_are_the_same(folder, tmp_path):
    write_both(folder, val=coco_contents(2, ('cat ', ' dog')))
    cfg, warnings, _ = prepared(folder, tmp_path)
    assert cfg.train_dataloader.dataset.metainfo.classes == ('cat', 'dog') and not warnings


def test_no_class_in_common(folder, tmp_path):
    write_both(folder, val=coco_contents(2, ('horse', 'cow')))
    refused(folder, tmp_path, 'cat', 'horse')


def test_a_byte_order_mark(folder, tmp_path):
    write_both(folder)
    path = folder / 'annotations' / 'instances_train.json'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    prepared(folder, tmp_path)


def test_the_parent_of_roboflows_categories_is_no_class(folder, tmp_path):
    contents = coco_contents()
    contents['categories'] = [dict(id=0, name='animals', supercategory='none'), *(
        dict(category, supercategory='animals') for category in contents['categories'])]
    cfg, warnings, _ = prepared(write_both(folder, contents, copy.deepcopy(contents)), tmp_path)
    assert cfg.train_dataloader.dataset.metainfo.classes == ('cat', 'dog')
    assert any('animals' in warning for warning in warnings)


def test_label_maps_of_0_and_255(folder, tmp_path):
    write_label_maps(folder, (0, 255))
    (folder / 'classes.txt').write_text('background\nthing\n')
    refused(folder, tmp_path, '255', 'thing', '1', config=SEGMENTOR)
    write_label_maps(folder, (0, 1, 255))
    prepared(folder, tmp_path, SEGMENTOR)
    for split in ('train', 'val'):  # one of both is faulty
        write_label_maps(folder, (0, 1))
        write_label_maps(folder, (0, 255), splits=[split])
        refused(folder, tmp_path, '255', 'thing', '1', config=SEGMENTOR)


@pytest.mark.parametrize('prefix', ['data\\images\\', '/home/user/data/', 'https://host/a/', 'upload/1/'])
def test_names_of_other_machines(prefix, folder, tmp_path):
    contents = coco_contents()
    write_both(folder, contents)
    for image in contents['images']:
        image['file_name'] = prefix + image['file_name']
    (folder / 'annotations' / 'instances_train.json').write_text(json.dumps(contents))
    cfg, _, changes = prepared(folder, tmp_path)
    assert any(prefix + '1.png' in change for change in changes)
    written = json.loads((tmp_path / 'work_dir' / 'annotations' / 'train.json').read_text())
    assert [image['file_name'] for image in written['images']] == [f'{i}.png' for i in range(1, 5)]
    init_default_scope('mmdet')
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 4


@pytest.mark.parametrize('rename', [
    lambda name: name.upper(), lambda name: f' {name}', lambda name: f'https://host/{quote(name)}?key=a/b',
    lambda name: unicodedata.normalize('NFD', name), lambda name: f'/home/user/{name}'])
def test_names_in_other_letters(rename, folder, tmp_path):
    """Capital ones, accents in two ways, those of URLs; of images in two folders, where one number is in both."""
    contents = coco_contents()
    for number, image in enumerate(contents['images']):
        image['file_name'] = f'{"ab"[number % 2]}/é{number // 2}.png'
    there = [image['file_name'] for image in contents['images']]
    write_both(folder, contents)
    for image in contents['images']:
        image['file_name'] = rename(image['file_name'])
    (folder / 'annotations' / 'instances_train.json').write_text(json.dumps(contents))
    cfg, _, changes = prepared(folder, tmp_path)
    assert any(rename('a/é0.png') in change for change in changes)
    written = json.loads((tmp_path / 'work_dir' / 'annotations' / 'train.json').read_text())
    assert [image['file_name'] for image in written['images']] == there
    assert cfg.train_dataloader.dataset.data_prefix.img == 'train'


def test_names_that_may_be_either_of_two_files_stop(folder, tmp_path):
    """Unless the names have their folder."""
    contents = coco_contents()
    write_both(folder, contents)
    shutil.copytree(folder / 'train', folder / 'small')
    shutil.move(folder / 'train', folder / 'large')
    for image in contents['images']:
        image['file_name'] = image['file_name'].upper()
    (folder / 'annotations' / 'instances_train.json').write_text(json.dumps(contents))
    refused(folder, tmp_path, '1.PNG', 'folder')
    for image in contents['images']:
        image['file_name'] = f'LARGE/{image["file_name"]}'
    (folder / 'annotations' / 'instances_train.json').write_text(json.dumps(contents))
    assert prepared(folder, tmp_path)[0].train_dataloader.dataset.data_prefix.img == 'large'


def test_files_that_are_cut_off(folder, tmp_path):
    """Their headers are whole."""
    write_both(folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    for path, kind in ((folder / 'train' / '1.png', 'PNG'), (folder / 'val' / '1.png', 'JPEG')):
        image.save(path, kind)
        path.write_bytes(path.read_bytes()[:-1000])
    refused(folder, tmp_path, folder / 'train' / '1.png', folder / 'val' / '1.png', 'cut off')


@pytest.mark.parametrize('kind', ['GIF', 'TIFF', 'WEBP', 'PNG'])
def test_frames_behind_the_first_are_not_read(kind, folder, tmp_path):
    write_both(folder)
    pages = [Image.new('RGB', (64, 48), colour) for colour in ('red', 'blue')]
    pages[0].save(folder / 'train' / '2.png', kind, save_all=True, append_images=pages[1:])
    _, (warning,), _ = prepared(folder, tmp_path)
    assert 'first' in warning and '2.png' in warning and warning.endswith(': 1')


def test_pointers_of_git_lfs_in_the_place_of_annotations_and_label_maps(folder, tmp_path):
    write_both(folder)
    (folder / 'annotations' / 'instances_val.json').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    refused(folder, tmp_path, 'instances_val.json', 'git lfs pull')
    write_label_maps(folder)
    (folder / 'labels' / 'val' / 'a.png').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    with pytest.raises(UserError, match=facts('a.png', 'git lfs pull')):
        prepared(folder, tmp_path, SEGMENTOR)


READ_AS_IT_IS = {f'{loader}_dataloader.dataset.pipeline.0.color_type': 'unchanged' for loader in ('train', 'val')}


def test_files_of_other_channels_than_the_backbones(folder, tmp_path):
    """Files, where they are read as they are; else what the pipeline makes of them."""
    write_both(folder)
    plain = {'model.data_preprocessor.mean': None, 'model.data_preprocessor.std': None}
    four = {**READ_AS_IT_IS, **plain, 'model.backbone.in_channels': 4}
    refused(folder, tmp_path, '1.png', '3', 'in_channels', **four)
    for channels in (1, 6):
        cfg, _, _ = prepared(folder, tmp_path, **{'model.backbone.in_channels': channels})
        with pytest.raises(UserError, match=facts(3, channels, 'in_channels')):
            draw_samples(cfg, tmp_path / 'samples.jpg')
    for path in folder.rglob('*.png'):
        Image.new('RGBA', (64, 48)).save(path)
    cfg, _, _ = prepared(folder, tmp_path, **four)
    draw_samples(cfg, tmp_path / 'samples.jpg')


def test_names_that_are_in_two_folders_stay(folder, tmp_path):
    contents = coco_contents()
    contents['images'][0]['file_name'] = 'a/1.png'
    contents['images'][1]['file_name'] = 'b/1.png'
    write_both(folder, contents)
    _, _, changes = prepared(folder, tmp_path)
    assert not changes or not any('1.png' in change for change in changes)


@pytest.mark.parametrize('place', ['result.json', 'annotations/instances_default.json', 'train/_annotations.coco.json'])
def test_a_single_json_is_split(place, folder, tmp_path):
    contents = coco_contents(12, ('cat', 'dog', 'emu'))
    rare = contents['annotations'][:2]
    for annotation, image in zip(rare, (3, 8)):
        annotation.update(category_id=3, image_id=image)
    write_split(folder, contents, place, 'train' if 'train' in place else 'images')
    refused(folder, tmp_path, 'hold')
    written = []
    for run in ('first', 'again'):
        cfg = Config.fromfile(ROOT / DETECTOR)
        cfg.work_dir = str(tmp_path / run)
        _, changes = prepare(cfg, folder, quiet=True, holdout=.25)
        assert any('3 of the 12' in change for change in changes)
        written.append([json.loads((tmp_path / run / 'annotations' / f'{split}.json').read_text())
                        for split in ('train', 'val')])
    assert written[0] == written[1]
    train, val = written[0]
    ids = [{image['id'] for image in part['images']} for part in (train, val)]
    assert ids[0] | ids[1] == set(range(1, 13)) and not ids[0] & ids[1] and len(ids[1]) == 3
    for part, own in zip((train, val), ids):
        assert {a['image_id'] for a in part['annotations']} <= own
        assert {a['category_id'] for a in part['annotations']} == {1, 2, 3}
    init_default_scope('mmdet')
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 3


def test_held_out_images_keep_boxes_that_name_them_by_text(folder, tmp_path):
    contents = coco_contents()
    for annotation in contents['annotations']:
        annotation['image_id'] = str(annotation['image_id'])
    write_split(folder, contents, 'result.json', 'images')
    cfg = Config.fromfile(ROOT / DETECTOR)
    cfg.work_dir = str(tmp_path / 'work_dir')
    prepare(cfg, folder, quiet=True, holdout=.25)
    counts = [len(json.loads((tmp_path / 'work_dir' / 'annotations' / f'{split}.json').read_text())['annotations'])
              for split in ('train', 'val')]
    assert counts == [6, 2]


@pytest.mark.parametrize('share', [0., 1., -1., 1.5])
def test_shares_that_hold_out_nothing_or_all(share, folder, tmp_path):
    write_split(folder, coco_contents(), 'result.json', 'images')
    cfg = Config.fromfile(ROOT / DETECTOR)
    cfg.work_dir = str(tmp_path / 'work_dir')
    with pytest.raises(UserError, match=str(share)):
        prepare(cfg, folder, quiet=True, holdout=share)


def test_reading_headers_takes_no_pixels(folder, tmp_path, monkeypatch):
    """A thousand images take seconds, not minutes."""
    write_both(folder)
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('an image was decoded'))
    prepared(folder, tmp_path)


def test_messages_name_the_first_of_many(folder, tmp_path):
    write_both(folder, coco_contents(5))
    for number in (2, 4):
        turned(folder / 'train' / f'{number}.png')
    with pytest.raises(UserError) as stop:
        prepared(folder, tmp_path)
    assert re.search(facts('2 images', '2.png'), str(stop.value)) and '4.png' not in str(stop.value)


@pytest.mark.parametrize('name, orientation', [('a.jpg', 6), ('a.png', 6), ('a.tif', 6), ('a.webp', 8), ('a.jpg', 3)])
@pytest.mark.parametrize('behind', [False, True])
def test_headers_say_what_opencv_reads(name, orientation, behind, tmp_path):
    path, exif = tmp_path / name, Image.Exif()
    exif[0x0112] = orientation
    options = dict(tiffinfo={0x0112: orientation}) if path.suffix == '.tif' else dict(exif=exif)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path, **options)
    if behind:
        if path.suffix != '.png':
            pytest.skip('of a PNG alone')
        head, chunks = path.read_bytes()[:8], []
        rest = path.read_bytes()[8:]
        while rest:
            size = int.from_bytes(rest[:4], 'big') + 12
            chunks.append(rest[:size])
            rest = rest[size:]
        chunks.sort(key=lambda chunk: {b'IHDR': 0, b'eXIf': 2, b'IEND': 3}.get(chunk[4:8], 1))
        path.write_bytes(head + b''.join(chunks))
    height, width, _ = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR).shape
    assert read_header(path)[:2] == (width, height)
    assert path.suffix != '.jpg' or read_header(path).orientation == orientation


@pytest.mark.parametrize('name, bits', [('a.png', 16), ('a.tif', 16), ('a.ppm', 16), ('a.jp2', 16), ('b.tif', 32)])
def test_bits_of_colours(name, bits, tmp_path):
    image = np.zeros((40, 60), np.float32) if bits == 32 else np.zeros((40, 60, 3), np.uint16)
    assert cv2.imwrite(str(tmp_path / name), image)
    assert read_header(tmp_path / name).bits == bits
    cv2.imwrite(str(tmp_path / f'8{name}'), np.zeros((40, 60, 3), np.uint8))
    assert read_header(tmp_path / f'8{name}').bits == 8


@pytest.mark.parametrize('orientation, word', [(2, 'mirrored'), (3, 'mirrored')])
def test_orientations_that_keep_the_size_are_named(orientation, word, folder, tmp_path):
    write_both(folder)
    turned(folder / 'train' / '2.png', orientation)
    _, warnings, _ = prepared(folder, tmp_path)
    warning, = warnings
    assert word in warning and '2.png' in warning and warning.endswith(': 1')


def boxes_as(form, contents):
    for annotation in contents['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = {
            'corners': [x, y, x + width, y + height], 'centres': [x + width / 2, y + height / 2, width, height],
            'percents': [x / .64, y / .48, width / .64, height / .48],
            'centres, widths and heights as fractions': [
                (x + width / 2) / 64, (y + height / 2) / 48, width / 64, height / 48]}[form]
    return contents


@pytest.mark.parametrize('form', ['corners', 'centres', 'percents', 'centres, widths and heights as fractions'])
def test_masks_tell_how_boxes_are_written(form, folder, tmp_path):
    """Where no box leaves its image, too."""
    contents = boxes_as(form, coco_contents())
    refused(write_both(folder, contents), tmp_path, form, '8 boxes')


def test_a_few_masks_elsewhere_are_a_warning_and_many_an_error(folder, tmp_path):
    contents = coco_contents()
    for count in (1, 5):
        for annotation in contents['annotations'][:count]:
            annotation['segmentation'] = [[1, 1, 3, 1, 3, 3, 1, 3]]
        write_both(folder, contents)
        if count == 1:
            assert any('elsewhere' in warning and warning.endswith(': 1') for warning in prepared(folder, tmp_path)[1])
    refused(folder, tmp_path, '5 of the 8 masks', 'elsewhere')


@pytest.mark.parametrize('mask, words', [
    (dict(size=[64, 48], counts=[0, 64 * 48]), ['size', '[64, 48]']), (dict(counts=[0, 48 * 64]), ['size']),
    (dict(size=[48, 64], counts=None), ['run lengths']), (dict(size=[48, 64], counts=[5, 5]), ['add up']),
    (dict(size=[48, 64], counts='abc'), ['run lengths']), ('[[1, 2, 3, 4, 5, 6]]', ['no form']),
    ([dict(x=1, y=2)], ['no form']), ([['1', '2', '3', '4', '5', '6']], ['no form'])])
def test_masks_that_cannot_be_used(mask, words, folder, tmp_path):
    contents = coco_contents()
    contents['annotations'][3]['segmentation'] = mask
    refused(write_both(folder, contents), tmp_path, '1 masks', *words)


@pytest.mark.parametrize('change', [dict(area=0), dict(area=-1), dict(area='200'), dict(iscrowd='0')])
def test_annotations_that_mmdet_would_leave_out_are_mended(change, folder, tmp_path):
    contents = coco_contents()
    for annotation in contents['annotations']:
        annotation.update(change)
    cfg, warnings, _ = prepared(write_both(folder, contents), tmp_path)
    init_default_scope('mmdet')
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=[]))
    assert sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset))) == 8 and not warnings


def test_boxes_that_mmdet_leaves_out_are_counted(folder, tmp_path):
    contents = coco_contents()
    first, second, third, *_ = contents['annotations']
    first['ignore'] = 1
    second.update(bbox=[5, 5, .6, 10], segmentation=[])
    third.update(bbox=[70, 5, 10, 10], segmentation=[])
    for annotation in contents['annotations']:
        annotation['segmentation'] = []
    _, warnings, _ = prepared(write_both(folder, contents, val=contents), tmp_path)
    for word in ('ignore', 'pixel wide', 'outside'):
        assert sum(word in warning and warning.startswith('train') for warning in warnings) == 1
    for annotation in contents['annotations']:
        annotation['ignore'] = 1
    refused(write_both(folder, contents, val=contents), tmp_path, 'no boxes', 'learn')


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('names', [('cat', 'dog'), ('cat ', '\ufeffdog'), ('cat\xa0', 'dog')])
def test_mmdet_reads_what_the_survey_read(encoding, names, folder, tmp_path):
    """A repaired JSON is given to mmdet as a copy, however little was repaired."""
    write_both(folder, val=coco_contents(2, names))
    path = folder / 'annotations' / 'instances_val.json'
    path.write_bytes(path.read_text().encode(encoding))
    cfg, _, _ = prepared(folder, tmp_path)
    init_default_scope('mmdet')
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, pipeline=[]))
    assert len(dataset.cat_ids) == 2 and len(dataset.get_data_info(0)['instances']) == 2


def test_a_parent_with_the_name_of_a_class_moves_no_label(folder, tmp_path):
    contents = coco_contents()
    contents['categories'] = [dict(id=0, name='dog', supercategory='none'),
                              *(dict(category, supercategory='dog') for category in contents['categories'])]
    cfg, _, _ = prepared(write_both(folder, contents), tmp_path)
    init_default_scope('mmdet')
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=[]))
    assert [box['bbox_label'] for box in dataset.get_data_info(0)['instances']] == [0, 1]
