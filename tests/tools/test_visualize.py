"""Looking inside a small detector and a small segmentor by the command that a user types."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmmambavision import MambaVision
from mmmambavision.cli.visualize import main
from mmmambavision.interpret.picture import read_pixels
from mmmambavision.interpret.scan import scan_maps
from mmmambavision.interpret.tokens import find_block
from mmmambavision.models.mixers import MambaVisionMixer
from mmmambavision.terminal import run

from ..helpers.process import ROOT, run_tool

DETECTOR = ROOT / 'configs/cascade_mask_rcnn_mambavision_demo.py'
SEGMENTOR = ROOT / 'configs/upernet_mambavision_demo.py'
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def save_random(config, file):
    """A checkpoint of random weights, of ordinary size so that maps are not flat, as mmengine writes them."""
    if config is DETECTOR:
        from mmdet.registry import MODELS
    else:
        from mmseg.registry import MODELS
    cfg = Config.fromfile(config)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for name, parameter in model.backbone.named_parameters():
        if name.endswith(('qkv.weight', 'dt_proj.bias')):
            torch.nn.init.normal_(parameter, std=.3)
    if config is DETECTOR:
        for head in model.roi_head.bbox_head:
            head.fc_cls.bias.data[3] = 2.  # many stars
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=cfg.classes))), file)
    return file


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Checkpoints of a detector and a segmentor, and two images whose sides 32 does not divide."""
    out = tmp_path_factory.mktemp('visualize')
    save_random(DETECTOR, out / 'detector.pth')
    save_random(SEGMENTOR, out / 'segmentor.pth')
    random = np.random.default_rng(0)
    for name in 'ab':
        blocks = random.integers(0, 255, (5, 6, 3), np.uint8)
        Image.fromarray(blocks).resize((110, 90), Image.Resampling.BICUBIC).save(out / f'{name}.png')
    return out


def arguments(folder, *options, kind='detector', images=('a.png',)):
    config = DETECTOR if kind == 'detector' else SEGMENTOR
    return [*options, '--config', config, '--checkpoint', folder / f'{kind}.pth', '--device', 'cpu',
            *[folder / image for image in images]]


def visualize(*options):
    main([*map(str, options)])


def backbone(folder):
    """The detector's backbone by itself."""
    backbone = Config.fromfile(DETECTOR).model.backbone
    trunk = MambaVision(backbone.arch, out_indices=backbone.out_indices).eval()
    state = torch.load(folder / 'detector.pth', weights_only=True)['state_dict']
    trunk.load_state_dict({k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')})
    return trunk


def prepared(folder, name):
    """An image as the detector's config prepares it: normalised, then padded by 0 to multiples of 32."""
    pixels = (np.asarray(Image.open(folder / name)) - MEAN) / STD
    image = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
    return F.pad(image, (0, 128 - 110, 0, 96 - 90))


@pytest.mark.slow
def test_attention(folder, tmp_path):
    printed = run_tool('visualize.py', *arguments(folder, 'attention', '--point', '100,20', images=('a.png', 'b.png')),
                       '--out', tmp_path)
    trunk, inputs = backbone(folder).double(), []
    mixer = trunk.levels[2].blocks[1].mixer
    mixer.register_forward_pre_hook(lambda _, call: inputs.append(call[0]))
    for name in 'ab':
        assert f'{name}_attention.png' in printed
        with torch.no_grad():
            trunk(prepared(folder, f'{name}.png').double())
            q, k, _ = mixer.qkv(inputs[-1])[0].unflatten(1, (3, 4, -1)).permute(1, 2, 0, 3)
        # Pixel 100, 20 is in column 6 and row 1 of 6 x 8 tokens.
        weights = torch.exp(torch.einsum('hd,hld->hl', q[:, 1 * 8 + 6], k) / k.shape[-1] ** .5)
        expected = (weights / weights.sum(1, keepdim=True)).unflatten(1, (6, 8))
        found = np.load(tmp_path / f'{name}_attention.npz')
        assert (str(found['block']), found['token'].tolist()) == ('2.1', [1, 6])
        np.testing.assert_allclose(found['attention'], expected, rtol=1e-3)
        np.testing.assert_allclose(found['attention'].sum((1, 2)), 1, rtol=1e-5)
        assert Image.open(tmp_path / f'{name}_attention.png').size[0] > 1000


def test_scan(folder, tmp_path):
    visualize(*arguments(folder, 'scan', '--block', '3.0'), '--out', tmp_path)
    found, trunk = np.load(tmp_path / 'a_scan.npz'), backbone(folder).double()
    block = find_block(trunk, MambaVisionMixer, '3.0')
    reach, _ = scan_maps(block, prepared(folder, 'a.png').double(), (1, 1))  # of 3 x 4 tokens
    assert (str(found['block']), found['token'].tolist()) == ('3.0', [1, 1])
    np.testing.assert_allclose(found['reach'], reach, rtol=1e-4)
    steps = []
    block.mixer.dt_proj.register_forward_hook(lambda _, call, output: steps.append(F.softplus(
        output + block.mixer.dt_proj.bias).detach()))
    trunk(prepared(folder, 'a.png').double())
    rates = steps[0][0].mean(0)[:, None] * block.mixer.A_log.detach().exp()
    np.testing.assert_allclose(found['half_life'], math.log(2) / rates, rtol=1e-4)


def test_erf(folder, tmp_path):
    visualize(*arguments(folder, 'erf', '--level', '2', images=('a.png', 'b.png')), '--out', tmp_path)
    found, trunk = np.load(tmp_path / 'erf_level2.npz'), backbone(folder)
    expected = 0.
    for name in 'ab':
        image = prepared(folder, f'{name}.png').requires_grad_()
        trunk.level_maps(image)[2][0, :, 3, 4].mean().backward()
        expected = expected + image.grad.abs().sum((0, 1)).numpy() / 2
    np.testing.assert_allclose(found['trained'], expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert found['centre'].tolist() == [48, 64]
    assert found['random'].shape == (96, 128) and not np.allclose(found['random'], found['trained'], rtol=.1)
    for name in ('random', 'trained'):
        rows, columns = np.mgrid[:96, :128]
        distance = np.hypot(rows - 48, columns - 64)
        radius, total = found[f'radius_{name}'], found[name].sum()
        assert found[name][distance < radius - 1e-6].sum() < total / 2 <= found[name][distance <= radius].sum() + 1e-6


def test_cam_of_a_detector(folder, tmp_path):
    pytest.importorskip('pytorch_grad_cam')
    from mmdet.apis import inference_detector, init_detector
    visualize(*arguments(folder, 'cam', '--class', 'star', '--box', 1, '--level', 2), '--out', tmp_path)
    found = np.load(tmp_path / 'a_cam.npz')
    model = init_detector(str(DETECTOR), str(folder / 'detector.pth'), device='cpu')
    boxes = inference_detector(model, str(folder / 'a.png')).pred_instances
    stars = boxes[boxes.labels == 3]
    second = stars.scores.argsort(descending=True)[1]
    assert found['score'] == pytest.approx(stars.scores[second].item(), rel=1e-4)
    np.testing.assert_allclose(found['box'], stars.bboxes[second], atol=.05)
    assert found['cam'].shape == (90, 110) and 0 <= found['cam'].min() <= found['cam'].max() <= 1


def test_cam_of_a_segmentor(folder, tmp_path):
    pytest.importorskip('pytorch_grad_cam')
    from mmseg.apis import inference_model, init_model
    visualize(*arguments(folder, 'cam', '--out', tmp_path, kind='segmentor'))
    found = np.load(tmp_path / 'a_cam.npz')
    cfg = Config.fromfile(SEGMENTOR)
    cfg.test_pipeline = [step for step in cfg.test_pipeline if step.type != 'LoadAnnotations']
    result = inference_model(init_model(cfg, str(folder / 'segmentor.pth'), device='cpu'), str(folder / 'a.png'))
    predicted = result.pred_sem_seg.data[0]
    most = predicted.flatten().bincount().argmax()
    assert found['score'] == pytest.approx(result.seg_logits.data[most][predicted == most].mean().item(), rel=1e-4)
    assert found['cam'].shape == (90, 110)
    assert '--box' in error_of(
        arguments(folder, 'cam', '--out', tmp_path / 'x', '--box', 0, kind='segmentor'))


@pytest.mark.full
@pytest.mark.parametrize('command', ['scan', 'erf', 'cam'])
def test_in_a_process_of_its_own(command, folder, tmp_path):
    """As `test_attention`, the others: the numbers are those of the tests above."""
    if command == 'cam':
        pytest.importorskip('pytorch_grad_cam')
    printed = run_tool('visualize.py', *arguments(folder, command), '--out', tmp_path / 'process')
    visualize(*arguments(folder, command), '--out', tmp_path / 'here')
    file, = (tmp_path / 'here').glob('*.npz')
    assert f'{file.stem}.png' in printed and (tmp_path / 'process' / f'{file.stem}.png').is_file()
    here, there = np.load(file), np.load(tmp_path / 'process' / file.name)
    assert here.files == there.files
    for name in set(here.files) - {'block'}:
        np.testing.assert_allclose(here[name], there[name], rtol=1e-3, atol=1e-3)


def test_options(folder, tmp_path):
    """Heads one by one, all queries, and a network without a checkpoint."""
    visualize(*arguments(folder, 'attention', '--heads', '--block', '3.1', '--out', tmp_path))
    found = np.load(tmp_path / 'a_attention.npz')
    assert found['attention'].shape == (8, 3, 4) and found['token'].size == 0
    np.testing.assert_allclose(found['attention'].sum((1, 2)), 1, rtol=1e-5)
    width, height = Image.open(tmp_path / 'a_attention.png').size
    assert height > 1.5 * width  # eight rows
    visualize('erf', '--config', SEGMENTOR, '--level', '0', '--out', tmp_path, folder / 'a.png')
    field = np.load(tmp_path / 'erf_level0.npz')
    assert 'trained' not in field
    rows, columns = np.nonzero(field['random'])
    reach = 3 + 2 * 4  # the stem and the one block of this network's first level
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == [44 - reach, 44 + reach, 56 - reach, 56 + reach]


def error_of(options):
    with pytest.raises(SystemExit) as stop:
        run(lambda: visualize(*options))
    return str(stop.value.code)


def test_nothing_is_overwritten(folder, tmp_path):
    (tmp_path / 'b_scan.npz').write_text('mine')
    message = error_of(arguments(folder, 'scan', '--out', tmp_path, images=('a.png', 'b.png')))
    assert str(tmp_path / 'b_scan.npz') in message and '--out' in message
    assert [file.name for file in tmp_path.iterdir()] == ['b_scan.npz']
    assert (tmp_path / 'b_scan.npz').read_text() == 'mine'
    assert 'b_scan.npz' in error_of(arguments(folder, 'scan', '--out', tmp_path / 'b_scan.npz'))
    assert 'Not a directory' in error_of(arguments(folder, 'scan', '--out', tmp_path / 'b_scan.npz/x'))
    message = error_of(arguments(folder, 'scan', '--out', tmp_path / 'new', images=('a.png', '../elsewhere/a.png')))
    assert str(tmp_path / 'new' / 'a_scan.png') in message and not (tmp_path / 'new').exists()


def test_errors(folder, tmp_path, capsys):
    out = '--out', tmp_path / 'new'
    (tmp_path / 'text.jpg').write_text('text')
    assert 'text.jpg' in error_of(
        [*arguments(folder, 'scan', *out), tmp_path / 'text.jpg'])
    assert 'no.png' in error_of(arguments(folder, 'erf', *out, images=('no.png',)))
    assert '--checkpoint' in error_of(['attention', '--config', DETECTOR, *out, folder / 'a.png'])
    assert '2.1, 3.1' in error_of(arguments(folder, 'attention', '--block', '1.0', *out))
    assert '110,0' in error_of(arguments(folder, 'scan', '--point', '110,0', *out))
    assert 'no.py' in error_of(['erf', '--config', 'no.py', *out, folder / 'a.png'])
    assert 'no.pth' in error_of(
        ['scan', '--config', DETECTOR, '--checkpoint', 'no.pth', *out, folder / 'a.png'])
    assert 'level 3' in error_of(
        ['erf', '--config', SEGMENTOR, *out, folder / 'a.png', '--cfg-options', 'model.backbone.out_indices=(0,1,2)'])
    assert '--device gpu' in error_of([*arguments(folder, 'scan', *out), '--device', 'gpu'])
    with pytest.raises(SystemExit):
        visualize(*arguments(folder, 'scan', *out), '--point', '5')
    assert "'5'" in capsys.readouterr().err
    assert not list((tmp_path / 'new').glob('*'))


def test_grey_images_of_16_bits(tmp_path):
    grey = np.random.default_rng(0).integers(0, 2 ** 16, (5, 6), np.uint16)
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    assert np.array_equal(read_pixels(tmp_path / 'grey.png'), np.stack([grey // 256] * 3, -1))


def test_errors_of_cam(folder, tmp_path):
    pytest.importorskip('pytorch_grad_cam')
    out = '--out', tmp_path
    message = error_of(arguments(folder, 'cam', '--class', 'cube', *out))
    assert 'cube' in message and 'circle, triangle, rectangle, star' in message
    message = error_of(arguments(folder, 'cam', '--class', 'star', '--box', 99, *out))
    assert 'star' in message and '99' in message
