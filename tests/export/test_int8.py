"""Files in INT8: what is quantised, how close they are to float32, and their metadata in both formats."""
import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation.functional import bbox_overlaps
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmmambavision.errors import UserError
from mmmambavision.export.contract import Contract
from mmmambavision.export.parts import PARTS
from mmmambavision.openmmlab.configs import first_dataset

from ..helpers.detectors import as_input, small_config, small_query_config, squares, trained
from ..helpers.process import load_tool
from ..helpers.tiers import full

onnx = pytest.importorskip('onnx')
for package in ('onnxscript', 'onnxruntime', 'openvino', 'nncf'):
    pytest.importorskip(package)

from mmmambavision.cli.work.calibration import Inputs, find_images  # noqa: E402
from mmmambavision.export.int8 import quantise  # noqa: E402
from mmmambavision.export.onnx import export, open_model, read  # noqa: E402
from mmmambavision.export.openvino_session import OpenVINOSession  # noqa: E402

CONTRACT = Contract('model', ['a "quoted" <class>', 'b'], [[1, 2, 3], [4, 5, 6]], 'segmentation', resize=None,
                    align_corners=False, binary_threshold=None, window=None)
tool = load_tool('predict_onnx')


class Attend(torch.nn.Module):
    """A depthwise convolution, a convolution, self-attention with its linear layers, and a layer with two outputs."""
    outputs = ('logits',)

    def __init__(self):
        super().__init__()
        self.depthwise = torch.nn.Conv2d(3, 18, 3, padding=1, groups=3)
        self.conv, self.qkv = torch.nn.Conv2d(18, 64, 3, padding=1), torch.nn.Linear(64, 192)
        self.linear = torch.nn.Linear(64, 2)

    def forward(self, images):
        height, width = images.shape[2:]
        x = self.conv(self.depthwise(images / 255)).flatten(2).mT
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        attended = ((q @ k.mT / 8).softmax(-1) @ v)[:, 0]
        return self.linear(x + attended).mT.reshape(len(x), 2, height, width)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A float32 file, the same in INT8 in two formats, and an image."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('int8')
    images = [as_input(squares(32, number)[0]) for number in range(8)]
    paths = [folder / name for name in ('float32.onnx', 'int8.onnx', 'int8.xml')]
    export(Attend().eval(), torch.randn(2, 3, 32, 32), paths[0], contract=CONTRACT)
    for path in paths[1:]:
        quantise(paths[0], path, images, CONTRACT)
    return *paths, as_input(squares(40, 99)[0])


def test_layers_with_weights_are_quantised(files):
    """Weights per channel and activations per tensor, but not products, depthwise and small layers."""
    graph = onnx.load(files[1]).graph
    values = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ('Conv', 'MatMul', 'Gemm'):
            inputs = [makers[name] for name in node.input[:2] if name in makers]
            scales = [values[maker.input[1]] for maker in inputs if maker.op_type == 'DequantizeLinear']
            if any(maker.op_type == 'DequantizeLinear' and maker.input[0] in values for maker in inputs):
                assert [scale.size > 1 for scale in scales] == [False, True]
                assert values[inputs[1].input[0]].dtype == np.int8
            else:
                assert not scales
    counts = [sum(node.op_type == name for node in graph.node) for name in ('QuantizeLinear', 'DequantizeLinear')]
    assert counts == [2, 4]
    assert all(value.dtype != np.float32 or value.size <= 192 for value in values.values())


def test_both_formats_are_close_to_float32(files):
    *paths, image = files
    expected, *found = (read(path).run(None, dict(images=image))[0] for path in paths)
    for logits in found:
        error = np.abs(logits - expected).max() / np.abs(expected).max()
        assert 1e-3 < error < .04
    assert np.abs(found[0] - found[1]).max() < .01 * np.abs(expected).max()


@pytest.mark.parametrize('index', [1, 2])
def test_the_contract_is_kept(files, index):
    session, contract = open_model(files[index], 'segmentation')
    assert contract == CONTRACT
    own, meta = tool.load(files[index], 'cpu')
    assert {key: meta[key] for key in CONTRACT.fields} == CONTRACT.fields
    image = squares(40, 99)[0]
    expected = session.run(None, dict(images=as_input(image)))[0]
    np.testing.assert_allclose(tool.run(own, image[..., ::-1])['logits'], expected, atol=1e-5)


def test_broken_and_foreign_files_of_openvino(tmp_path, files):
    (tmp_path / 'x.xml').write_text('nothing')
    with pytest.raises(UserError, match='OpenVINO'):
        read(tmp_path / 'x.xml')
    with pytest.raises(SystemExit, match='openvino'):
        tool.load(tmp_path / 'x.xml', 'cpu')
    with pytest.raises(SystemExit, match='--device cuda'):
        tool.load(files[2], 'cuda')
    quantise(files[0], tmp_path / 'y.xml', [as_input(squares(32, 0)[0])])
    with pytest.raises(UserError, match='another model'):
        open_model(tmp_path / 'y.xml', 'segmentation')


# The calibration's inputs are those of a prediction.

PIPELINES = dict(
    detection=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 48), keep_ratio=True),
               dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 20, 30))),
               dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))],
    segmentation=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 48), keep_ratio=True),
                  dict(type='PackSegInputs')])
RESIZED = dict(resize=dict(scale=[64, 48], keep_ratio=True), classes=['a', 'b'], palette=[[1, 2, 3], [4, 5, 6]])


def save(file, contract):
    """A file that detects nothing, or whose logits are the first two colours."""
    value, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    images = value('images', kinds.FLOAT, [1, 3, 'h', 'w'])
    if contract.task == 'detection':
        arrays = dict(dets=np.zeros((1, 5), np.float32), labels=np.int64([-1]))
        nodes = [onnx.helper.make_node('Constant', [], [name], value=onnx.numpy_helper.from_array(array))
                 for name, array in arrays.items()]
        outputs = [value('dets', kinds.FLOAT, [1, 5]), value('labels', kinds.INT64, [1])]
    else:
        nodes = [onnx.helper.make_node('Split', ['images'], ['logits', 'rest'], axis=1, num_outputs=2)]
        outputs = [value('logits', kinds.FLOAT, [1, 2, 'h', 'w'])]
    graph = onnx.helper.make_graph(nodes, 'graph', [images], outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 20)], ir_version=10)
    onnx.helper.set_model_props(model, contract.properties)
    onnx.save(model, file)


class Recorded:
    """A session of predict_onnx.py that keeps its inputs."""

    def __init__(self, file):
        self.session, self.inputs = read(file), []
        self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs

    def run(self, names, feeds):
        self.inputs.append(feeds['images'])
        return self.session.run(names, feeds)


@pytest.mark.parametrize('task', PIPELINES)
def test_inputs_are_those_of_predict_onnx(task, tmp_path):
    """For a segmentor in slide mode one window of each image."""
    for number, size in enumerate([(40, 90), (100, 60)]):
        cv2.imwrite(str(tmp_path / f'{number}.png'), squares(100, number)[0][:size[0], :size[1]])
    fields = dict(mask_threshold=None, pad=dict(size=[64, 64], value=[30, 20, 114])) if task == 'detection' else dict(
        align_corners=False, window=dict(crop=[32, 32], stride=[20, 20]), mean=[5., 6., 7.], size_divisor=32)
    contract = Contract('model', task=task, **RESIZED, **fields)
    file = tmp_path / 'm.onnx'
    save(file, contract)
    cfg = Config(dict(model=dict(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(20, 20))),
                      test_pipeline=PIPELINES[task], test_dataloader=dict(dataset=dict(pipeline=PIPELINES[task])),
                      load_from=None, default_scope='mmdet' if task == 'detection' else 'mmseg'))
    init_default_scope(cfg.default_scope)
    found = list(Inputs(file, find_images(str(tmp_path)), cfg))
    assert len(found) == 2
    for number, images in enumerate(found):
        meta, session = tool.load(file, 'cpu')[1], Recorded(file)
        image = cv2.imread(str(tmp_path / f'{number}.png'))
        if task == 'detection':
            tool.detect(session, meta, image, 0.)
        else:
            tool.segment(session, meta, image)
        assert len(session.inputs) > (task != 'detection')
        np.testing.assert_allclose(images, session.inputs[number % len(session.inputs)], atol=1e-3)


# Trained models.

def found_again(expected, found, least):
    """For each box with at least this score, whether `found` has a box of its label with an IoU above 0.5."""
    (dets, labels), (others, other_labels) = ((dets[labels >= 0], labels[labels >= 0])
                                              for dets, labels, *_ in (expected, found))
    sure, there = dets[:, 4] >= least, others[:, 4] >= least * 2 / 3
    overlaps = bbox_overlaps(dets[sure, :4], others[there, :4])
    return (overlaps * (labels[sure, None] == other_labels[there])).max(1, initial=0) > .5


@pytest.mark.parametrize('name', [full('rtmdet-ins'), full('dino')])
def test_trained_detectors(name, tmp_path):
    if name == 'dino':
        model = trained(small_query_config(model__encoder__num_layers=1), 60)
    else:
        model = trained(small_config('rtmdet_ins_mambavision_t_100e'))
    contract = Contract.describe(model, 'model', first_dataset(model.cfg.test_dataloader).pipeline)
    export(PARTS['model'](model).eval(), torch.randn(1, 3, 128, 128), tmp_path / 'm.onnx', 'scan', contract=contract)
    inputs = [as_input(squares(128, 500 + number)[0]) for number in range(20)]
    quantise(tmp_path / 'm.onnx', tmp_path / 'q.onnx', inputs, contract)
    sessions = [read(tmp_path / 'm.onnx'), read(tmp_path / 'q.onnx'), OpenVINOSession(tmp_path / 'q.onnx', 1)]
    shares = [[], []]
    for number in range(10):
        feeds = dict(images=as_input(squares(128, 900 + number)[0]))
        expected, *others = (session.run(None, feeds) for session in sessions)
        for own, values in zip(shares, others):
            own.extend(found_again(expected, values, .3 if name == 'rtmdet-ins' else np.sort(expected[0][:, 4])[-3]))
    assert all(len(own) >= 10 and np.mean(own) > .9 for own in shares), [np.mean(own) for own in shares]
