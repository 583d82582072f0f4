"""Detectors and segmentors with queries beside mmdet's and mmseg's own predictions, and their files."""
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector
from mmdet.structures import DetDataSample

from mmmambavision.errors import UserError
from mmmambavision.export.check import LIMITS, differences
from mmmambavision.export.contract import Contract
from mmmambavision.export.parts import PARTS, Preprocessor
from mmmambavision.openmmlab.configs import first_dataset
from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.openmmlab.models import load_model

from ..helpers.detectors import (
    as_input,
    mmdets,
    small_mask2former,
    small_maskformer,
    small_query_config,
    squares,
    trained,
)
from ..helpers.messages import facts
from ..helpers.process import load_tool

DINO = 'dino_mambavision_t_1x'
DEFORMABLE = 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco'
ONE_MAP = ('detr/detr_r50_8xb2-150e_coco', 'conditional_detr/conditional-detr_r50_8xb2-50e_coco',
           'dab_detr/dab-detr_r50_8xb2-50e_coco')
ONE_STAGE = 'deformable_detr/deformable-detr_r50_16xb2-50e_coco'


def untrained(name, **options):
    cfg = small_query_config(name, **options)
    fit_to_machine(cfg)
    torch.manual_seed(0)
    model = load_model(cfg, None, 'cpu')
    model.init_weights()  # before it, level_embed is uninitialized memory
    for value in model.bbox_head.parameters():
        if value.dim() == 2:
            torch.nn.init.normal_(value, std=.1)
    return model


def outputs_of(module, image):
    with torch.no_grad():
        return [value.numpy() for value in module(torch.from_numpy(as_input(image)))]


@pytest.mark.parametrize('name', [DINO, DEFORMABLE, ONE_STAGE, *ONE_MAP])
def test_eager_is_mmdets(name):
    model = untrained(name)
    images = [squares(128, 3)[0][:height, :width].copy() for height, width in ((96, 128), (101, 77))]
    expected = [mmdets(model, image) for image in images]
    module = PARTS['model'](model).eval()
    for image, values in zip(images, expected):
        found = outputs_of(module, image)
        for other in (found, mmdets(model, image)):  # mmdet can still use the model
            errors = differences(module.outputs, values, other)
            assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors
    assert np.unique(found[0][:, 4]).size == 20


def test_fewer_cells_than_queries():
    """mmdet fails. The module adds invalid proposals."""
    model = untrained(DINO)
    image = squares(64, 3)[0][:32, :40].copy()
    with pytest.raises(RuntimeError):
        mmdets(model, image)
    dets, labels = outputs_of(PARTS['model'](model).eval(), image)
    assert np.isfinite(dets).all() and (labels >= 0).all()


def test_padding_is_refused():
    with pytest.raises(UserError, match=facts('DINO', 'pad_size_divisor')):
        PARTS['model'](untrained(DINO, model__data_preprocessor__pad_size_divisor=32))


@pytest.mark.full
def test_trained_and_exported(tmp_path):
    pytest.importorskip('onnxscript')
    onnx = pytest.importorskip('onnx')
    from mmmambavision.export.exported_detector import ExportedDetector
    from mmmambavision.export.onnx import export, read
    model = trained(small_query_config(DINO, model__encoder__num_layers=1), 15)
    file = tmp_path / 'detector.onnx'
    images = [squares(160, 1000)[0][:height, :width].copy() for height, width in ((128, 128), (101, 77), (96, 160))]
    expected = [mmdets(model, image) for image in images]
    described = Contract.describe(model, 'model', first_dataset(model.cfg.test_dataloader).pipeline)
    export(PARTS['model'](model).eval(), torch.randn(1, 3, 96, 160), file, 'scan', contract=described)
    content = onnx.load(file)
    assert {entry.domain: entry.version for entry in content.opset_import} == {'': 20}
    operators = {node.op_type for node in content.graph.node}
    assert 'GridSample' in operators
    assert not operators & {'Loop', 'If', 'CumSum', 'NonZero', 'SequenceConstruct', 'SequenceAt'}
    session = read(file)
    for image, values in zip(images, expected):
        errors = differences(('dets', 'labels'), values, session.run(None, {'images': as_input(image)}))
        assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors
    tool = load_tool('predict_onnx')
    exported = ExportedDetector(str(file))
    exported.cfg, exported.dataset_meta = model.cfg, model.dataset_meta
    image = squares(256, 2000)[0][:200, :230].copy()
    one, other = (inference_detector(each, image).pred_instances for each in (model, exported))
    torch.testing.assert_close(one.bboxes, other.bboxes, atol=2e-3, rtol=0)
    annotations, _ = tool.detect(*tool.load(file, 'cpu'), image, 0.)
    scores = [annotation['score'] for annotation in annotations]
    np.testing.assert_allclose(scores, one.scores.numpy(), atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('name', ONE_MAP)
def test_one_map_exported(name, tmp_path):
    pytest.importorskip('onnxscript')
    onnx = pytest.importorskip('onnx')
    from mmmambavision.export.onnx import export, read
    model = untrained(name)
    images = [squares(128, 3)[0][:height, :width].copy() for height, width in ((96, 128), (101, 77), (128, 64))]
    expected = [mmdets(model, image) for image in images]
    export(PARTS['model'](model).eval(), torch.randn(1, 3, 96, 160), tmp_path / 'd.onnx')
    assert {entry.domain for entry in onnx.load(tmp_path / 'd.onnx').opset_import} == {''}
    session = read(tmp_path / 'd.onnx')
    for image, values in zip(images, expected):
        errors = differences(('dets', 'labels'), values, session.run(None, {'images': as_input(image)}))
        assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors


def mask2former():
    """With random weights of a size that gives the queries different masks."""
    cfg = small_mask2former()
    fit_to_machine(cfg)
    torch.manual_seed(0)
    model = load_model(cfg, None, 'cpu')
    for key, value in model.decode_head.named_parameters():
        if 'query' in key or 'level' in key or ('embed' in key and value.dim() == 2):
            torch.nn.init.normal_(value, std=.3)
    return model


def mmsegs(model, image):
    from mmseg.apis import inference_model
    return inference_model(model, image).seg_logits.data[None].numpy()


def largest(expected, found):
    return np.abs(expected - found).max() / np.abs(expected).max()


SEGMENTED = [squares(128, 4)[0][:height, :width].copy() for height, width in ((96, 128), (101, 77))]


def test_mask2former_is_mmsegs():
    model = mask2former()
    expected = [mmsegs(model, image) for image in SEGMENTED]
    module = PARTS['model'](model).eval()
    for image, logits in zip(SEGMENTED, expected):
        with torch.no_grad():
            found = module(torch.from_numpy(as_input(image))).numpy()
            both = module(torch.from_numpy(as_input(image)).repeat(2, 1, 1, 1)).numpy()
        assert logits.std(1).mean() > 1e-3
        for other in (found, both[1:], mmsegs(model, image)):  # mmseg can still use the model
            assert largest(logits, other) < LIMITS['logits']


@pytest.mark.full
def test_mask2former_exported(tmp_path):
    pytest.importorskip('onnxscript')
    onnx = pytest.importorskip('onnx')
    from mmmambavision.export.exported_segmentor import ExportedSegmentor
    from mmmambavision.export.onnx import export
    model = mask2former()
    expected, file = [mmsegs(model, image) for image in SEGMENTED], tmp_path / 'segmentor.onnx'
    described = Contract.describe(model, 'model', first_dataset(model.cfg.test_dataloader).pipeline)
    export(PARTS['model'](model).eval(), torch.randn(2, 3, 96, 160), file, 'scan', contract=described)
    operators = {node.op_type for node in onnx.load(file).graph.node}
    assert not operators & {'Loop', 'If', 'CumSum', 'NonZero', 'SequenceConstruct', 'SequenceAt'}
    exported = ExportedSegmentor(str(file), model.test_cfg)
    for image, logits in zip(SEGMENTED, expected):
        steps = exported.session.run(None, {'images': as_input(image)})[0]
        assert steps.shape == logits.shape and largest(logits, steps) < LIMITS['logits']


MASKFORMERS = [
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic',
    'maskformer/maskformer_r50_ms-16xb1-75e_coco']


def maskformer(name):
    cfg = small_maskformer(name)
    fit_to_machine(cfg)
    torch.manual_seed(0)
    model = load_model(cfg, None, 'cpu')
    model.init_weights()
    for key, value in model.panoptic_head.named_parameters():
        if 'query' in key or 'level' in key or ('embed' in key and value.dim() == 2):
            torch.nn.init.normal_(value, std=.3)
    return model


@pytest.mark.parametrize('name', MASKFORMERS[::2])
def test_maskformer_is_mmdets(name):
    model = maskformer(name)
    settings = model.cfg.model.data_preprocessor
    images = [as_input(squares(128, 4)[0][:height, :width].copy()) for height, width in ((96, 128), (101, 77))]
    expected = []
    for image in map(torch.from_numpy, images):
        x = Preprocessor(settings, settings.pad_size_divisor, 0)(image)
        sample = DetDataSample(metainfo=dict(img_shape=image.shape[2:], batch_input_shape=tuple(x.shape[2:])))
        with torch.no_grad():
            expected.append([values[-1][0].numpy() for values in model.panoptic_head(model.backbone(x), [sample])])
    module = PARTS['model'](model).eval()
    for image, values in zip(images, expected):
        with torch.no_grad():
            found = [value.numpy() for value in module(torch.from_numpy(image))]
        assert differences(module.outputs, values, found)['logits'] < LIMITS['logits']


@pytest.mark.full
@pytest.mark.parametrize('name', MASKFORMERS)
def test_maskformer_exported(name, tmp_path):
    """Instance and panoptic segmentation by a file, and by mmdet."""
    pytest.importorskip('onnxscript')
    from mmmambavision.export.exported_detector import ExportedMaskFormer
    from mmmambavision.export.onnx import export
    model = maskformer(name)
    cfg = model.cfg
    images = [squares(256, 4)[0][:height, :width].copy() for height, width in ((200, 250), (101, 77))]
    features, layer = [], model.panoptic_head.pixel_decoder.mask_feature
    hook = layer.register_forward_hook(lambda _, inputs, output: features.append(output))
    inference_detector(model, images[0])
    hook.remove()
    layer.bias.data -= features[0].mean((0, 2, 3))  # so that masks have an inside and an outside
    expected = [inference_detector(model, image) for image in images]
    described = Contract.describe(model, 'model', cfg.test_dataloader.dataset.pipeline)
    export(PARTS['model'](model).eval(), torch.randn(1, 3, 96, 160), tmp_path / 'm.onnx', contract=described)
    exported = ExportedMaskFormer(str(tmp_path / 'm.onnx'), cfg.model.panoptic_fusion_head, cfg.model.test_cfg)
    exported.cfg, exported.dataset_meta = model.cfg, model.dataset_meta
    for image, one in zip(images, expected):
        for other in (inference_detector(exported, image), inference_detector(model, image)):
            if 'pred_panoptic_seg' in one:
                one_map, other_map = (sample.pred_panoptic_seg.sem_seg for sample in (one, other))
                assert len(one_map.unique()) > 1 and (one_map != other_map).float().mean() < 1e-3
            else:
                (a, b) = (sample.pred_instances[sample.pred_instances.scores.argsort()] for sample in (one, other))
                torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)
                assert (a.masks != b.masks).float().mean() < 1e-3 and a.masks.any() and not a.masks.all()


def test_a_maskformer_with_padding_is_refused():
    cfg = small_maskformer('maskformer/maskformer_r50_ms-16xb1-75e_coco')
    cfg.model.data_preprocessor.pad_size_divisor = 32
    with pytest.raises(UserError, match='pad_size_divisor'):
        PARTS['model'](load_model(cfg, None, 'cpu'))
