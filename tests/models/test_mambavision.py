"""Every option of the backbone, and its errors."""
import copy
import pickle

import numpy as np
import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.registry import MODELS
from torch import nn
from torch._dynamo.testing import CompileCounter

from mmmambavision import MambaVision
from mmmambavision.models.blocks import DropPath
from mmmambavision.models.levels import HybridLevel
from mmmambavision.presets import PRESETS, SHORT_NAMES

from ..helpers.messages import facts
from ..helpers.nets import NANO


def nano(**options):
    return MambaVision(**{'arch': NANO, 'window_size': (7, 4), 'drop_path_rate': 0., **options})


def image(height=64, width=96, batch=2):
    return torch.randn(batch, 3, height, width)


# Parameters in millions without the head, with the four norms on the outputs, as published.
@pytest.mark.parametrize('arch, millions', [('tiny', 31.15), ('tiny2', 34.46), ('small', 49.37), ('base', 96.66),
                                            ('large', 226.39), ('large2', 239.99), ('large3', 737.53)])
def test_presets_have_the_published_size(arch, millions):
    with torch.device('meta'):
        model = MambaVision(arch)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=.005)


def test_short_names():
    assert set(SHORT_NAMES.values()) == set(PRESETS)
    with torch.device('meta'):
        short, full = MambaVision('l2'), MambaVision('large2')
    assert {k: v.shape for k, v in short.state_dict().items()} == {k: v.shape for k, v in full.state_dict().items()}


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', None])
def test_found_by_name_in_any_scope(scope):
    model = MODELS.build(dict(type='MambaVision', arch=NANO, **({'_scope_': scope} if scope else {})))
    assert isinstance(model, MambaVision)


@pytest.mark.parametrize('out_indices', [(0,), (3,), (1, 2), (0, 3), (0, 1, 2, 3)])
def test_out_indices_select_the_same_maps(out_indices):
    torch.manual_seed(0)
    model = nano().eval()
    part = nano(out_indices=out_indices).eval()
    part.load_state_dict({k: v for k, v in model.state_dict().items() if k in part.state_dict()})
    x = image()
    for output, i in zip(part(x), out_indices, strict=True):
        torch.testing.assert_close(output, model(x)[i])


def test_every_parameter_gets_a_gradient_whatever_is_asked_for():
    """Distributed training stops at parameters without one."""
    for out_indices in [(1,), (0, 2), (0, 1, 2, 3)]:
        model = nano(out_indices=out_indices)
        sum(output.sum() for output in model(image())).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('window', [None, (None, 4), (7, 4), (8, 8, 7, 4)])
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (64, 250)])
def test_any_image_size(size, window):
    outputs = nano(window_size=window).eval()(image(*size))
    for i, output in enumerate(outputs):
        stride = 4 * 2 ** i
        assert output.shape == (2, 16 * 2 ** i, -(-size[0] // stride), -(-size[1] // stride))
        assert output.isfinite().all()


def test_whole_map_window_is_the_window_of_that_size():
    x = image(128, 128)  # 8 x 8 and 4 x 4 maps
    torch.manual_seed(0)
    whole, sized = nano(window_size=None).eval(), nano(window_size=(8, 4)).eval()
    sized.load_state_dict(whole.state_dict())
    for a, b in zip(whole(x), sized(x)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('depth', [1, 2, 3])
@pytest.mark.parametrize('with_cp', [False, True])
def test_leaving_out_what_is_cropped_changes_nothing(depth, with_cp):
    """One padded window, as released for COCO: the last block computes only what survives the crop."""
    torch.manual_seed(0)
    level = HybridLevel(16, [0.] * depth, False, num_heads=2, window=9, mlp_ratio=4., layer_scale=.5,
                        scan_backend='auto', with_cp=with_cp).double()
    x, cotangent = torch.randn(2, 16, 8, 6).double().requires_grad_(), torch.randn(2, 16, 8, 6).double()

    def everything(x):
        padded = torch.nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 3, 0, 1))
        tokens = level.run_blocks(padded.reshape(2, 81, 16))
        return tokens.reshape(2, 9, 9, 16)[:, :8, :6].permute(0, 3, 1, 2)

    inputs = [x, *level.parameters()]
    outputs = level(x)[0], everything(x)
    torch.testing.assert_close(*outputs)
    for a, b in zip(*(torch.autograd.grad((output * cotangent).sum(), inputs) for output in outputs)):
        torch.testing.assert_close(a, b)


def test_outputs_are_contiguous():
    """mmcv's RoIAlign computes nonsense from anything else, silently."""
    for window in (None, (7, 4)):
        for channels_last in (False, True):
            x = image().contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
            assert all(output.is_contiguous() for output in nano(window_size=window)(x))


def test_images_of_a_batch_do_not_mix():
    model, x = nano().eval(), image(batch=3)
    for whole, parts in zip(model(x), zip(*(model(x[i:i + 1]) for i in range(3)))):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages(frozen):
    model = nano(frozen_stages=frozen)
    assert model.train() is model
    parts = [model.patch_embed, *model.levels]
    for i, part in enumerate(parts):
        is_frozen = i <= frozen
        assert all(p.requires_grad != is_frozen for p in part.parameters())
        assert all(m.training != is_frozen for m in part.modules())
    assert all(p.requires_grad for name, p in model.named_parameters() if name.startswith('outnorm'))
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=.1)
    sum(output.square().sum() for output in model(image())).backward()
    optimizer.step()
    for i, name in enumerate(['patch_embed.', *(f'levels.{i}.' for i in range(4))]):
        changed = any(not torch.equal(v, before[k]) for k, v in model.state_dict().items() if k.startswith(name))
        assert changed != (i <= frozen)


def test_norm_eval():
    batch_norms = [m for m in nano(norm_eval=True).train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert batch_norms and not any(m.training for m in batch_norms)
    assert all(m.training for m in nano().train().modules())


def test_drop_path_grows_linearly_over_all_blocks():
    model = nano(drop_path_rate=.5)
    rates = [block.drop_path.drop_prob for level in model.levels for block in level.blocks]
    assert rates == pytest.approx([0., .1, .2, .3, .4, .5])


def test_initialisation():
    model = MambaVision('tiny', init_cfg=None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(.02, rel=.1), name
            assert module.bias is None or not module.bias.any(), name
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            assert (module.weight == 1).all() and not module.bias.any(), name
    mixer = model.levels[2].blocks[0].mixer
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1., 9.).repeat(160, 1))
    assert (mixer.D == 1).all()


def test_layer_scale_sits_on_hybrid_blocks_only():
    names = [name for name, _ in nano(arch=dict(NANO, layer_scale=1e-5)).named_parameters() if 'gamma' in name]
    assert len(names) == 2 * 4 and all(name.startswith(('levels.2', 'levels.3')) for name in names)


def test_copies_and_pickles():
    model, x = nano().eval(), image()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for a, b in zip(model(x), other(x)):
            assert torch.equal(a, b)


def test_mixed_precision_keeps_the_scan_in_float32(monkeypatch):
    from mmmambavision.models import mixers
    seen = {}

    def spy(u, delta, A, B, C, D, delta_bias, **options):
        seen.update(A=A.dtype, D=D.dtype, delta_bias=delta_bias.dtype)
        return original(u, delta, A, B, C, D, delta_bias=delta_bias, **options)

    original = mixers.selective_scan
    monkeypatch.setattr(mixers, 'selective_scan', spy)
    model, x = nano(), image()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = model.eval()(x)
    assert set(seen.values()) == {torch.float32}
    for low, full in zip(outputs, model(x)):
        assert (low.float() - full).norm() < .05 * full.norm()


@pytest.mark.parametrize('options, words', [
    (dict(arch='huge'), ['arch', 'huge', 'tiny, tiny2, small, base, large, large2, large3']),
    (dict(arch=dict(dim=16)), ['arch', 'depths, in_dim, num_heads']),
    (dict(arch=dict(NANO, width=3)), ['arch', 'width']),
    (dict(arch=dict(NANO, depths=(1, 2))), ['arch.depths', '4']),
    (dict(arch=dict(NANO, num_heads=(1, 2, 3, 4))), ['num_heads[2]', '3', '64', 'level 2']),
    (dict(window_size=(0, 7)), ['window_size', '(0, 7)']),
    (dict(window_size=(14, -7)), ['window_size', '-7']),
    (dict(window_size=(14, 7, 7)), ['window_size', '(14, 7, 7)']),
    (dict(window_size=0), ['window_size', '0']),
    (dict(window_size=True), ['window_size', 'True']),
    (dict(window_size='whole'), ['window_size', 'whole']),
    (dict(out_indices=(0, 4)), ['out_indices', '(0, 4)']),
    (dict(out_indices=3), ['out_indices', '(3,)']),
    (dict(out_indices=(-1,)), ['out_indices', '(-1,)']),
    (dict(out_indices=()), ['out_indices', '()']),
    (dict(frozen_stages=5), ['frozen_stages', '5']),
    (dict(frozen_stages=1.), ['frozen_stages', '1.0']),
    (dict(out_indices=(1.,)), ['out_indices', '(1.0,)']),
    (dict(arch=None), ['arch', 'None']),
    (dict(arch=dict(NANO, depths=(1., 1, 2, 2))), ['arch.depths', '4']),
    (dict(in_channels=True), ['in_channels', 'True']),
    (dict(drop_path_rate='0.1'), ['drop_path_rate', "'0.1'"]),
    (dict(scan_backend=['cpu']), ['backend', "['cpu']"]),
    (dict(in_channels=0), ['in_channels', '0']),
    (dict(drop_path_rate=1.), ['drop_path_rate', '1.0']),
    (dict(scan_backend='fast'), ['backend', 'fast', 'reference']),
])
def test_errors(options, words):
    with pytest.raises(ValueError, match=facts(*words)):
        nano(**options)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_images_have_as_many_channels_as_the_stem(channels):
    with pytest.raises(ValueError, match=facts('(B, 3, H, W)', f'(1, {channels}, 64, 64)', 'in_channels')):
        nano()(torch.zeros(1, channels, 64, 64))
    outputs = nano(in_channels=channels)(torch.randn(1, channels, 64, 64))
    assert [output.shape[1] for output in outputs] == [16, 32, 64, 128]


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_images_are_normalised_first(dtype):
    with pytest.raises(ValueError, match=str(dtype)):
        nano()(torch.zeros(1, 3, 64, 64, dtype=dtype))


@pytest.mark.parametrize('window', [None, (7, 4)])
@pytest.mark.parametrize('train', [False, True])
def test_empty_batch(window, train):
    """Empty maps, and gradients of 0 where torch's own layers give them."""
    model = nano(window_size=window).train(train)
    outputs = model(torch.zeros(0, 3, 64, 96))
    assert [output.shape for output in outputs] == [(0, 16 * 2 ** i, 16 // 2 ** i, 24 // 2 ** i) for i in range(4)]
    sum(output.sum() for output in outputs).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or gradient.any()] == []


def test_the_whole_map_is_the_default_and_an_integer_is_for_both_levels():
    assert [level.window for level in MambaVision(NANO).levels[2:]] == [None, None]
    assert [level.window for level in nano(window_size=5).levels[2:]] == [5, 5]
    assert [level.window for level in nano(window_size=(None, 6)).levels[2:]] == [None, 6]


def test_integers_of_numpy():
    arch = dict(NANO, depths=np.array(NANO['depths']), num_heads=np.array(NANO['num_heads']))
    model = MambaVision(arch, np.int64(7), in_channels=np.int64(1), out_indices=(np.int64(1), np.int32(3)),
                        frozen_stages=np.int64(1))
    assert [type(level.window) for level in model.levels[2:]] == [int, int]
    assert (model.in_channels, model.out_indices, model.frozen_stages) == (1, (1, 3), 1)
    assert [level.window for level in nano(window_size=('balanced', np.int64(3))).levels[2:]] == [('balanced', 3)] * 2
    for wrong in (dict(window_size=True), dict(window_size=np.float64(7)), dict(in_channels=np.bool_(True))):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            nano(**wrong)


def test_maps_that_a_head_leaves_out_have_gradients_of_zero():
    """RetinaNet and FCN use some of the maps; distributed training stops at parameters without a gradient."""
    model = nano()
    model.train()(image())[2].sum().backward()
    idle = [p.grad for i in (0, 1, 3) for p in getattr(model, f'outnorm{i}').parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in idle)
    assert model.outnorm2.bias.grad.any()


def test_norms_on_the_outputs_can_be_replaced():
    model = nano()
    for i in range(4):
        setattr(model, f'outnorm{i}', nn.Identity())
    for train in (False, True):
        maps = model.train(train)(image())
        assert [m.shape[1] for m in maps] == [16, 32, 64, 128]


@pytest.mark.parametrize('shape', [(4, 5), (4, 3, 6, 6)])
def test_drop_path_drops_samples_and_keeps_the_mean(shape):
    layer = DropPath(.25)
    x = torch.rand(4000, *shape[1:]) + .5
    dropped = layer.train()(x)
    ratio = (dropped / x).flatten(1)
    kept = ratio[:, 0] != 0
    torch.testing.assert_close(ratio, (kept / .75)[:, None].expand_as(ratio))
    assert kept.float().mean().item() == pytest.approx(.75, abs=.05)
    assert layer.eval()(x) is x and DropPath(0.).train()(x) is x


def test_batch_norms_fold_into_their_convolutions():
    model = MambaVision(NANO).eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_mean, -1, 1)
            torch.nn.init.uniform_(norm.running_var, .5, 2)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        actual = fuse_conv_bn(model)(x)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('window', [None, (7, 4), (28, 14), ('balanced', 3)])
def test_compiled_as_one_graph(window):
    torch._dynamo.reset()
    counter = CompileCounter()
    model = MambaVision(NANO, window_size=window).eval()
    images = torch.randn(1, 3, 120, 90)
    with torch.no_grad():
        outputs = torch.compile(model, backend=counter, dynamic=False)(images)
        for output, expected in zip(outputs, model(images), strict=True):
            torch.testing.assert_close(output, expected)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize('train', [False, True])
def test_images_of_many_sizes_are_compiled_three_times_at_most(train):
    """Once for the first size, once with one side unknown, once with both."""
    torch._dynamo.reset()
    counter = CompileCounter()
    model = torch.compile(MambaVision(NANO, window_size=None).train(train), backend=counter)
    for size in ((64, 64), (64, 96), (96, 64), (128, 96), (160, 128), (101, 77), (200, 333)):
        model(torch.randn(2, 3, *size))
    assert counter.frame_count <= 3
