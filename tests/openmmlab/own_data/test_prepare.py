"""Configs of every kind, fitted to drawn data, as the builders of mmdet and mmseg then see them."""
import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmmambavision.openmmlab.own_data import draw_samples, prepare
from mmmambavision.openmmlab.own_data.fit import fit_model

from ...helpers.data import coco_contents, write_both, write_label_maps, write_split
from ...helpers.messages import facts
from ...helpers.process import ROOT

CASCADE = 'cascade_mask_rcnn_mambavision_demo'
DETECTORS = {CASCADE: 3, 'mask_rcnn_mambavision_t_1x': 1, 'retinanet_mambavision_t_1x': 0}  # and their box heads


def load(name, tmp_path):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    cfg.work_dir = str(tmp_path / 'work_dir')
    return cfg


def build(cfg):
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('name', DETECTORS)
@pytest.mark.parametrize('masks', [True, False])
def test_detectors(name, masks, folder, tmp_path):
    contents = [coco_contents(n, classes=('cat', 'dog', 'emu')) for n in (4, 2)]
    for annotation in [a for content in contents for a in content['annotations'] if not masks]:
        del annotation['segmentation']
    cfg = load(name, tmp_path)
    warnings, changes = prepare(cfg, write_both(folder, *contents))
    warning, = warnings
    assert 'box' in warning and warning.endswith(': emu')
    model = build(cfg)
    if DETECTORS[name]:
        heads = cfg.model.roi_head.bbox_head
        assert [h.num_classes for h in ([heads] if isinstance(heads, dict) else heads)] == [3] * DETECTORS[name]
        logits = [v.shape[0] for k, v in model.state_dict().items() if k.endswith('fc_cls.weight')]
        assert logits == [4] * DETECTORS[name]
        mask_logits = [v.shape[0] for k, v in model.state_dict().items() if k.endswith('mask_head.conv_logits.weight')
                       or k.endswith('conv_logits.weight')]
        assert mask_logits == ([3] * DETECTORS[name] if masks else [])
        assert any('without masks' in change for change in changes) != masks
    else:
        assert model.bbox_head.cls_out_channels == 3 and cfg.model.bbox_head.num_classes == 3
    for key, split, count in (('train', 'train', 4), ('val', 'val', 2), ('test', 'val', 2)):
        settings = cfg[f'{key}_dataloader'].dataset
        assert settings.data_root == str(folder) and settings.data_prefix.img == split
        dataset = DATASETS.build(settings)
        assert dataset.metainfo['classes'] == ('cat', 'dog', 'emu') and len(dataset) == count
        assert dataset[0]['data_samples'].gt_instances.labels.tolist() == [0, 1]
        assert ('masks' in dataset[0]['data_samples'].gt_instances) == (masks and name in list(DETECTORS)[:2])
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file == str(folder / 'annotations' / 'instances_val.json')
        assert (evaluator.metric == ['bbox', 'segm']) == (masks and bool(DETECTORS[name]))


@pytest.mark.parametrize('name', ['upernet_mambavision_demo', 'upernet_mambavision_s'])
def test_segmentors(name, folder, tmp_path):
    write_label_maps(folder, (0, 1, 2))
    (folder / 'classes.txt').write_text('sky\nsea\nsand\nship\n')
    cfg = load(name, tmp_path)
    warnings, changes = prepare(cfg, folder)
    for split, warning in zip(('train', 'val'), warnings, strict=True):
        assert split in warning and warning.endswith(': ship')
    assert (cfg.model.decode_head.num_classes, cfg.model.auxiliary_head.num_classes) == (4, 4)
    assert build(cfg).decode_head.conv_seg.out_channels == 4
    weighted = [change for change in changes if 'class_weight' in change and '5' in change]
    assert len(weighted) == (2 if name.endswith('demo') else 0)
    assert not cfg.model.decode_head.loss_decode.get('class_weight')
    for key, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        loader = cfg[f'{key}_dataloader']
        assert loader.dataset.data_prefix == dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}')
        dataset = DATASETS.build(loader.dataset)
        assert dataset.metainfo['classes'] == ('sky', 'sea', 'sand', 'ship') and len(dataset) == 2
        assert set(dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 255}
    assert cfg.val_dataloader.batch_size == 1
    assert "reduce_zero_label=True,type='LoadAnnotations'" not in ''.join(cfg.pretty_text.split())


@pytest.mark.parametrize('wrap', [
    lambda d: dict(type='RepeatDataset', times=3, dataset=d),
    lambda d: dict(type='RepeatDataset', times=3, dataset=dict(
        type='ClassBalancedDataset', oversample_thr=.1, dataset=d)),
    lambda d: dict(type='RepeatDataset', times=3, dataset=dict(type='ConcatDataset', datasets=[d, d]))])
def test_wrapped_datasets(wrap, folder, tmp_path):
    cfg = load(CASCADE, tmp_path)
    cfg.train_dataloader.dataset = ConfigDict(wrap(cfg.train_dataloader.dataset.to_dict()))
    prepare(cfg, write_both(folder))
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 12 and dataset.metainfo['classes'] == ('cat', 'dog')


def test_other_evaluators_are_replaced(folder, tmp_path):
    cfg = load(CASCADE, tmp_path)
    cfg.val_evaluator = ConfigDict(type='VOCMetric', metric='mAP')
    cfg.test_evaluator = [cfg.test_evaluator, ConfigDict(type='DumpDetResults')]
    prepare(cfg, write_both(folder))
    assert [e.type for e in cfg.val_evaluator] == ['CocoMetric'] and cfg.val_evaluator[0].metric == 'bbox'
    assert [e.type for e in cfg.test_evaluator] == ['CocoMetric', 'DumpDetResults'] and cfg.test_evaluator[0].ann_file


def test_weights_of_classes():
    """Mask2Former's: one for each class and one for "no object"."""
    model = ConfigDict(head=dict(num_classes=3, loss_cls=dict(class_weight=[1., 1., 1., .1])),
                       other=dict(num_classes=3, loss=[dict(class_weight=[1., 2., 3.])]), rpn_head=dict(num_classes=1))
    notes = fit_model(model, 2)
    assert model.head.loss_cls.class_weight == [1., 1., .1] and model.other.loss[0].class_weight is None
    classes, weights = notes
    assert re.search(facts('num_classes', '2', '3', 'model.head', 'model.other'), classes)
    assert re.search(facts('model.other.loss.0.class_weight', '3', '2'), weights)
    assert model.rpn_head.num_classes == 1
    with pytest.raises(ValueError, match='num_classes'):
        fit_model(ConfigDict(rpn_head=dict(num_classes=1)), 2)


def test_categories_that_differ_between_the_splits(folder, tmp_path):
    """In another order, with other ids, and each with one that the other has not: labels mean the same in both."""
    val = coco_contents(2, categories=[dict(id=2, name='cat'), dict(id=1, name='emu'), dict(id=3, name='dog')])
    for annotation in val['annotations']:
        annotation['category_id'] += 1
    val['annotations'].append(dict(val['annotations'][0], id=99, category_id=1))
    write_both(folder, coco_contents(classes=('cat', 'dog', 'fox')), val)
    cfg = load(CASCADE, tmp_path)
    warnings, changes = prepare(cfg, folder)
    said = [('validat', 'fox'), ('left out', 'emu'), ('box', 'fox')]
    for warning, (about, name) in zip(warnings, said, strict=True):
        assert about in warning and warning.endswith(f': {name}')
    copy = tmp_path / 'work_dir' / 'annotations' / 'val.json'
    assert any(str(copy) in change for change in changes)
    assert cfg.val_evaluator.ann_file == str(copy) == cfg.val_dataloader.dataset.ann_file
    assert cfg.train_dataloader.dataset.ann_file == 'annotations/instances_train.json'
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert dataset.cat_ids == [1, 2, 3]
    assert dataset[0]['data_samples'].gt_instances.labels.tolist() == [0, 1]
    assert json.loads((folder / 'annotations' / 'instances_val.json').read_text()) == val


def test_named_files(folder, tmp_path):
    write_split(folder / 'a', coco_contents(), 'x.json', 'pictures')
    write_split(folder / 'b', coco_contents(2), 'y.json', 'pictures')
    cfg = load(CASCADE, tmp_path)
    one = folder / 'a' / 'x.json'
    prepare(cfg, jsons=dict(train=one, val=one), images=folder / 'a' / 'pictures')
    assert cfg.val_dataloader.dataset.ann_file == 'x.json' and cfg.val_dataloader.dataset.data_prefix.img == 'pictures'
    with pytest.raises(ValueError, match=facts('training', 'validation')):
        prepare(cfg, jsons=dict(train=one))
    with pytest.raises(ValueError, match='nowhere'):
        prepare(cfg, folder / 'nowhere')
    write_split(folder / 'c', coco_contents(images=[]), 'train.json', 'pictures')
    with pytest.raises(ValueError, match='train.json'):
        prepare(cfg, folder, dict(train=folder / 'c' / 'train.json', val=folder / 'b' / 'y.json'))
    with pytest.raises(ValueError, match='segmentor'):
        prepare(load('upernet_mambavision_demo', tmp_path), jsons=dict(train='x.json'))


def test_small_images(folder, tmp_path):
    contents = coco_contents(3)
    contents['images'][0].update(width=31)
    cfg = load('cascade_mask_rcnn_mambavision_demo', tmp_path)
    warnings, _ = prepare(cfg, write_both(folder, contents))
    assert any(re.search(facts('train', '32 pixels', 'filter_cfg', ': 1'), warning) for warning in warnings)
    with pytest.raises(ValueError, match='32 pixels'):
        prepare(cfg, write_both(tmp_path / 'small', coco_contents(3, size=(31, 31))))


def test_some_masks(folder, tmp_path):
    contents = coco_contents()
    contents['annotations'][3]['segmentation'] = []
    write_both(folder, contents)
    with pytest.raises(ValueError, match=facts('1 of the 12', 'segmentation')):
        prepare(load(CASCADE, tmp_path), folder)
    prepare(load('retinanet_mambavision_t_1x', tmp_path), folder)


def test_no_masks_for_a_model_of_masks(folder, tmp_path):
    cfg = load(CASCADE, tmp_path)
    cfg.model.mask_head = dict(type='SOLOHead', num_classes=80)
    contents = coco_contents()
    for annotation in contents['annotations']:
        del annotation['segmentation']
    with pytest.raises(ValueError, match=facts('CascadeRCNN', 'masks')):
        prepare(cfg, folder=write_both(folder, contents, contents))


def test_all_errors_are_told_at_once_after_the_table(folder, tmp_path, capsys):
    train, val = coco_contents(), coco_contents(2, annotations=[])
    train['annotations'][0]['category_id'] = 5
    write_both(folder, train, val)
    (folder / 'train' / '2.png').unlink()
    with pytest.raises(ValueError) as stop:
        prepare(load(CASCADE, tmp_path), folder)
    missing, category, empty = str(stop.value).splitlines()
    assert '2.png' in missing and re.search(facts('category_id', '5'), category)
    assert re.search(facts(folder / 'annotations' / 'instances_val.json', 'no boxes'), empty)
    table = {line.split('│')[1].strip(): [cell.strip() for cell in line.split('│')[2:4]]
             for line in capsys.readouterr().out.splitlines() if '│' in line}
    assert table['images'] == ['4', '2'] and table['missing files'] == ['1', '0']
    assert table['boxes: cat'] == ['3', '0'] and table['boxes: dog'] == ['4', '0']


def test_values_beyond_the_classes(folder, tmp_path):
    write_label_maps(folder, (0, 1, 4))
    (folder / 'classes.txt').write_text('sky\nsea\n')
    with pytest.raises(ValueError, match=facts('1 values', 'train', '2')):
        prepare(load('upernet_mambavision_demo', tmp_path), folder)


def test_the_picture_shows_what_the_data_set_gives(folder, tmp_path):
    """Nine cells at most, annotated: more colours than the one grey that the images are of."""
    import cv2
    write_both(folder)
    for name in (CASCADE, 'upernet_mambavision_demo'):
        cfg = load(name, tmp_path)
        prepare(cfg, folder if name == CASCADE else write_label_maps(folder))
        draw_samples(cfg, tmp_path / 'new' / 'samples.png')
        picture = cv2.imread(str(tmp_path / 'new' / 'samples.png'))
        assert picture.shape == (2 * 560 if name == CASCADE else 560, 3 * 560, 3)
        assert picture[:560, :560].std(2).max() > 50


@pytest.mark.parametrize('channels, colour', [(1, 'grayscale'), (4, 'unchanged')])
def test_the_picture_of_images_of_other_channels(channels, colour, folder, tmp_path):
    import cv2
    write_label_maps(folder)
    if channels == 4:
        for path in (folder / 'images').rglob('*.png'):
            cv2.imwrite(str(path), np.full((48, 64, 4), 90, np.uint8))
    cfg = load('upernet_mambavision_demo', tmp_path)
    cfg.model.backbone.in_channels = channels
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline = [
            dict(type='LoadImageFromFile', color_type=colour), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    prepare(cfg, folder)
    draw_samples(cfg, tmp_path / 'samples.png')
    assert cv2.imread(str(tmp_path / 'samples.png')).std(2).max() > 50
