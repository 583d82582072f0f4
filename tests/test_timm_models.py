"""The classifiers as timm models: what timm's own generic tests of models ask, and every released file's form.

The generic tests of timm 1.0.31 (`tests/test_models.py` of its sdist, with `import mmmambavision.timm_models` at its
top and 'timm_models' in FEAT_INTER_FILTERS) pass on all these models: forward, backward, default configurations,
features, intermediates, names of layers. What cannot hold: torchscript and symbolic tracing (`torch.fx`), because
forward passes look at the sizes of images and the scan is an operator chosen when it runs; `set_input_size`, because
any size is taken.
"""
import json
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

timm = pytest.importorskip('timm')
from timm.data import resolve_model_data_config  # noqa: E402
from timm.optim import param_groups_layer_decay  # noqa: E402

import mmmambavision.timm_models  # noqa: E402
from mmmambavision.errors import UserError  # noqa: E402
from mmmambavision.presets import PRESETS  # noqa: E402

from .helpers.messages import facts  # noqa: E402
from .helpers.tiers import but_first  # noqa: E402

# name: window sizes, input size, crop_pct, crop_mode, drop path, repository; published with the released files
RELEASED = {
    'mambavision_tiny.in1k': ((14, 7), 224, 1.0, 'center', .2, 'MambaVision-T-1K'),
    'mambavision_tiny2.in1k': ((14, 7), 224, .98, 'center', .2, 'MambaVision-T2-1K'),
    'mambavision_small.in1k': ((14, 7), 224, .93, 'center', .2, 'MambaVision-S-1K'),
    'mambavision_base.in1k': ((14, 7), 224, 1.0, 'center', .3, 'MambaVision-B-1K'),
    'mambavision_base.in21k_ft_in1k': ((14, 7), 224, 1.0, 'center', .3, 'MambaVision-B-21K'),
    'mambavision_large.in1k': ((14, 7), 224, 1.0, 'center', .3, 'MambaVision-L-1K'),
    'mambavision_large.in21k_ft_in1k': ((14, 7), 224, 1.0, 'center', .3, 'MambaVision-L-21K'),
    'mambavision_large2.in1k': ((14, 7), 224, 1.0, 'center', .3, 'MambaVision-L2-1K'),
    'mambavision_large2.in21k_ft_in1k_512': ((32, 16), 512, .93, 'squash', .3, 'MambaVision-L2-512-21K'),
    'mambavision_large3.in21k_ft_in1k_256': ((16, 8), 256, 1.0, 'center', .5, 'MambaVision-L3-256-21K'),
    'mambavision_large3.in21k_ft_in1k_512': ((32, 16), 512, .93, 'squash', .5, 'MambaVision-L3-512-21K'),
}
SMALLEST = 'mambavision_tiny'


def test_names():
    assert timm.list_models('mambavision*') == sorted(f'mambavision_{arch}' for arch in PRESETS)
    assert sorted(timm.list_pretrained('mambavision*')) == sorted(RELEASED)


@pytest.mark.parametrize('name', RELEASED)
def test_released_configuration(name):
    windows, size, crop_pct, crop_mode, drop_path, repository = RELEASED[name]
    with torch.device('meta'):
        model = timm.create_model(name)
    cfg = model.pretrained_cfg
    assert tuple(level.window for level in model.levels[2:]) == windows
    assert model.levels[3].blocks[-1].drop_path.drop_prob == pytest.approx(drop_path)
    assert cfg['hf_hub_id'] == f'nvidia/{repository}' and cfg['hf_hub_filename'].endswith('.pth.tar')
    data = resolve_model_data_config(model)
    assert (data['input_size'], data['crop_pct'], data['crop_mode']) == ((3, size, size), crop_pct, crop_mode)
    assert (data['interpolation'], data['mean']) == ('bicubic', (.485, .456, .406))
    assert data['std'] == (.229, .224, .225)
    parameters = dict(model.named_parameters())
    assert cfg['classifier'] + '.weight' in parameters and cfg['first_conv'] + '.weight' in parameters
    assert parameters['head.weight'].shape[0] == cfg['num_classes'] == 1000


@pytest.mark.parametrize('form', ['pth.tar', 'module pth.tar', 'safetensors'])
def test_a_released_file_by_path(form, tmp_path):
    """In each of NVIDIA's forms; other classes, channels and features alone are seen to by timm."""
    source = timm.create_model(SMALLEST).eval()
    state = source.state_dict()
    file = tmp_path / ('model.safetensors' if form == 'safetensors' else 'x.pth.tar')
    if form == 'safetensors':
        save_file({f'model.{name}': value for name, value in state.items()}, file)
    else:
        prefix = 'module.' if form.startswith('module') else ''
        torch.save(dict(state_dict={prefix + name: value for name, value in state.items()}, epoch=3), file)
    overlay = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))
    model = timm.create_model('mambavision_tiny.in1k', **overlay).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), source(x)) and model.pretrained_cfg['state_dict'] is None
    if form != 'pth.tar':
        return
    fine_tuned = timm.create_model('mambavision_tiny', num_classes=5, in_chans=1, **overlay).eval()
    assert fine_tuned(x[:, :1]).shape == (1, 5)
    torch.testing.assert_close(fine_tuned.patch_embed(x[:, :1]), source.patch_embed(x[:, :1].expand(-1, 3, -1, -1)))
    assert torch.equal(fine_tuned.levels[3].blocks[0].mixer.D, source.levels[3].blocks[0].mixer.D)
    maps = timm.create_model('mambavision_tiny', features_only=True, **overlay).eval()(x)
    for a, b in zip(maps, source.forward_intermediates(x, intermediates_only=True), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=facts("'tiny'", "'small'")):
        timm.create_model('mambavision_small', **overlay)


@pytest.mark.parametrize('name', RELEASED)
def test_every_released_name_loads_a_file(name, tmp_path, monkeypatch):
    """By the name on Hugging Face, with files of the right shapes and no memory behind them."""
    from mmmambavision import timm_models
    asked = []
    with torch.device('meta'):
        state = timm.create_model(name).state_dict()
        monkeypatch.setattr(timm_models, 'load_checkpoint',
                            lambda source: asked.append(source) or dict(state_dict=state))
        timm.create_model(name, pretrained=True)
    *_, repository = RELEASED[name]
    assert len(asked) == 1 and asked[0].startswith(f'hf://nvidia/{repository}/mambavision_')


@pytest.mark.slow
@pytest.mark.parametrize('form', ['pth.tar', 'safetensors'])
@pytest.mark.parametrize('name', but_first(RELEASED))
def test_every_released_name_in_both_forms(name, form, tmp_path):
    """Files of the full sizes with nothing behind them: one stored number for each tensor, or a hole in the file."""
    with torch.device('meta'):
        state = timm.create_model(name).state_dict()
    file = tmp_path / f'model.{form}'
    if form == 'pth.tar':
        torch.save(dict(epoch=1, state_dict={k: torch.ones(()).expand(v.shape) for k, v in state.items()}), file)
    else:
        header, end = {}, 0
        for key, value in state.items():
            begin, end = end, end + 4 * value.numel()
            header[f'model.{key}'] = dict(dtype='F32', shape=list(value.shape), data_offsets=[begin, end])
        text = json.dumps(header).encode()
        with file.open('wb') as stream:
            stream.write(len(text).to_bytes(8, 'little') + text)
            stream.truncate(8 + len(text) + end)
    loaded = {}
    with torch.device('meta'), mock.patch.object(
            torch.nn.Module, 'load_state_dict', autospec=True, side_effect=lambda model, given, *_, **__: (
                loaded.update(given), SimpleNamespace(missing_keys=[], unexpected_keys=[]))[1]):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))
    assert {k: v.shape for k, v in loaded.items()} == {k: v.shape for k, v in state.items()}


def test_forward_backward():
    model = timm.create_model(SMALLEST, num_classes=42).train()
    output = model(torch.randn(2, 3, 64, 96))
    output.mean().backward()
    assert output.shape == (2, 42) and output.isfinite().all()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.set_grad_checkpointing(True)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 42)


def test_default_methods():
    model = timm.create_model(SMALLEST, num_classes=0).eval()
    x = torch.randn(1, 3, 64, 64)
    features = model.forward_features(x)
    assert model(x).shape == (1, model.num_features) == (1, model.head_hidden_size)
    model.reset_classifier(7)
    assert model.forward_head(features).shape == (1, 7) == model(x).shape
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    assert model.get_classifier().out_features == model.num_classes == 7
    model.reset_classifier(0)
    assert model(x).shape == (1, model.num_features)
    assert model.in_chans == 3 and model.default_cfg['pool_size'] == (7, 7)
    model.reset_classifier(0, '')
    assert torch.equal(model(x), model.forward_features(x)) and model(x).shape == (1, model.num_features, 2, 2)
    model.reset_classifier(7)
    with pytest.raises(ValueError, match=facts('7', 'global_pool', 'num_classes')):
        model(x)
    with pytest.raises(ValueError, match=facts('global_pool', 'avg', 'max')):
        model.reset_classifier(7, 'max')
    model.reset_classifier(7, 'avg')
    assert model(x).shape == (1, 7)


def test_device_and_type():
    """Given to create_model, or changed after a forward pass."""
    model = timm.create_model(SMALLEST, num_classes=0, global_pool='', device='meta', dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {('meta', torch.bfloat16)}
    model = timm.create_model(SMALLEST).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    torch.testing.assert_close(model.double()(x.double()), expected.double(), rtol=0, atol=1e-5)
    model.reset_classifier(3)
    assert model.head.weight.dtype == torch.float64 and not model.head.training


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 3), (-2, -1), (2,)])
def test_features(out_indices):
    model = timm.create_model(SMALLEST, features_only=True, out_indices=out_indices, window_size=(None, None)).eval()
    maps = model(torch.randn(2, 3, 96, 160))
    levels = [i % 4 for i in out_indices]
    assert model.feature_info.channels() == [80 * 2 ** i for i in levels] == [m.shape[1] for m in maps]
    assert model.feature_info.reduction() == [4 * 2 ** i for i in levels]
    for m, reduction in zip(maps, model.feature_info.reduction(), strict=True):
        assert m.shape[2:] == (96 // reduction, 160 // reduction) and not m.isnan().any()
    assert not any(name.startswith('model.head') for name in model.state_dict())


def test_layer_decay_groups_follow_depth():
    model = timm.create_model(SMALLEST)
    scales = {name: group['lr_scale'] for group in param_groups_layer_decay(model, layer_decay=.5, verbose=False)
              for name, p in model.named_parameters() if any(p is q for q in group['params'])}
    assert len(scales) == len(list(model.parameters()))
    order = ['patch_embed.conv_down.0.weight', 'levels.0.blocks.0.conv1.weight', 'levels.1.blocks.2.conv1.weight',
             'levels.2.blocks.0.mixer.A_log', 'levels.2.blocks.7.mixer.qkv.weight', 'levels.3.blocks.3.mlp.fc1.weight',
             'head.weight']
    assert sorted(order, key=scales.get) == order and scales['head.weight'] == 1
    assert model.no_weight_decay() == set()


def test_options():
    model = timm.create_model(SMALLEST, in_chans=6, drop_path_rate=.1, img_size=320, window_size=(None, None),
                              drop_rate=.3)
    sizes = dict(dim=16, in_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4))
    assert timm.create_model(SMALLEST, arch=sizes, num_classes=2).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 2)
    assert [level.window for level in model.levels[2:]] == [None, None]
    assert model.levels[3].blocks[-1].drop_path.drop_prob == pytest.approx(.1) and model.drop.p == .3
    assert model.eval()(torch.randn(1, 6, 70, 50)).shape == (1, 1000)
    # timm.create_model drops arguments that are None; the function itself takes them.
    assert mmmambavision.timm_models.mambavision_tiny(window_size=None).levels[2].window is None


def test_weights_from_nowhere():
    with pytest.raises(ValueError, match=facts('mambavision_tiny', 'dict(file=...)')):
        timm.create_model(SMALLEST, pretrained=True, pretrained_cfg=dict(num_classes=10))


@pytest.fixture(scope='module')
def small():
    """Options of a small network, and the weights of one."""
    sizes = dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 1, 2, 4))
    options = dict(arch=sizes, num_classes=2)
    return options, timm.create_model(SMALLEST, **options).state_dict()


@pytest.mark.parametrize('prefix', ['', 'model.', 'student.', 'backbone.', 'module._orig_mod.'])
@pytest.mark.parametrize('way', ['checkpoint_path', 'pretrained_cfg_overlay'])
def test_any_prefix(way, prefix, small, tmp_path):
    """By timm's reader of files and by ours."""
    options, state = small
    torch.save(dict(state_dict={prefix + name: value for name, value in state.items()}), tmp_path / 'x.pth')
    file = str(tmp_path / 'x.pth')
    model = timm.create_model(SMALLEST, **options, **(dict(checkpoint_path=file) if way == 'checkpoint_path' else dict(
        pretrained=True, pretrained_cfg_overlay=dict(file=file, num_classes=2))))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_averaged_weights_by_their_key(small, tmp_path, caplog):
    """Raw ones are taken beside them, unless by `checkpoint_path`, which timm reads; the log says so."""
    options, state = small
    file = tmp_path / 'x.pth'
    torch.save(dict(state_dict={k: torch.zeros_like(v) for k, v in state.items()}, state_dict_ema=state), file)

    def head(name):
        return timm.create_model(SMALLEST, **options, pretrained=True, pretrained_cfg_overlay=dict(
            file=name, num_classes=2)).head.weight

    assert torch.equal(head(f'{file}#state_dict_ema'), state['head.weight'])
    assert not caplog.records or 'several' not in caplog.text
    assert not head(str(file)).any() and '#state_dict_ema' in caplog.text
    timms = timm.create_model(SMALLEST, **options, checkpoint_path=str(file))
    assert torch.equal(timms.head.weight, state['head.weight'])


@pytest.mark.parametrize('classes, changes, keyword', [
    (5, {}, r'2 classes.*num_classes=2.*reset_classifier\(5\)'),
    (2, dict(dim=24), 'another network'),
    (2, dict(depths=(1, 1, 2, 4)), 'another network'),
])
def test_a_checkpoint_path_of_another_model(classes, changes, keyword, small, tmp_path):
    options, state = small
    torch.save(state, tmp_path / 'x.pth')
    options = dict(arch=options['arch'] | changes, num_classes=classes)
    with pytest.raises(UserError, match=keyword):
        timm.create_model(SMALLEST, **options, checkpoint_path=str(tmp_path / 'x.pth'))


def test_weights_that_are_no_dense_numbers(small, tmp_path):
    options, state = small
    name = 'levels.2.blocks.0.mlp.fc1.weight'
    for weight in (state[name].to(torch.int8), torch.quantize_per_tensor(state[name], .1, 0, torch.qint8)):
        torch.save({**state, name: weight}, tmp_path / 'x.pth')
        with pytest.raises(UserError, match='quantised'):
            timm.create_model(SMALLEST, **options, checkpoint_path=str(tmp_path / 'x.pth'))
        with pytest.raises(UserError, match='quantised'):
            timm.create_model(SMALLEST, **options, pretrained=True, pretrained_cfg_overlay=dict(
                file=str(tmp_path / 'x.pth'), num_classes=2))


def test_a_head_is_left_out_where_unknown_names_are_allowed(small):
    options, state = small
    model = timm.create_model(SMALLEST, **{**options, 'num_classes': 0})
    assert model.load_state_dict(state, strict=False).unexpected_keys == ['head.weight', 'head.bias']


@pytest.mark.parametrize('classes, same', [(2, True), (None, True), (5, False), (0, False)])
def test_the_head_of_a_file_is_taken_where_its_classes_are_as_many(classes, same, small, tmp_path):
    """Whatever number of classes the released file has; by default the model has those of its file."""
    options, state = small
    torch.save(state, tmp_path / 'x.pth')
    options = dict(arch=options['arch'], **({} if classes is None else dict(num_classes=classes)))
    model = timm.create_model(SMALLEST, **options, pretrained=True,
                              pretrained_cfg_overlay=dict(file=str(tmp_path / 'x.pth')))
    assert model.num_classes == (2 if classes is None else classes)
    given = model.state_dict()
    assert torch.equal(given['norm.weight'], state['norm.weight'])
    assert ('head.weight' in given and torch.equal(given['head.weight'], state['head.weight'])) == same


@pytest.mark.parametrize('left, refused', [(('levels.3.',), False), (('levels.1.', 'levels.2.', 'levels.3.'), True)])
def test_features_of_a_part_of_the_weights(left, refused, small, tmp_path, caplog):
    options, state = small
    file = str(tmp_path / 'x.pth')
    torch.save({name: value for name, value in state.items() if not name.startswith(left)}, file)
    options = dict(arch=options['arch'], features_only=True, pretrained=True, pretrained_cfg_overlay=dict(file=file))
    if refused:
        with pytest.raises(ValueError, match=facts('tensors of the backbone', 'missing')):
            timm.create_model(SMALLEST, **options)
    else:
        timm.create_model(SMALLEST, **options)
        assert any('missing: levels.3.' in record.getMessage() for record in caplog.records
                   if record.levelname == 'WARNING')


def test_tensors_without_values_stop(small, tmp_path):
    options, state = small
    torch.save({name: value.to('meta') for name, value in state.items()}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=facts('meta', 'patch_embed')):
        timm.create_model(SMALLEST, **options, pretrained=True, pretrained_cfg_overlay=dict(
            file=str(tmp_path / 'x.pth'), num_classes=2))
