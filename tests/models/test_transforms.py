"""The network under what others do with it: checkpointing, autocast, compilation, export, quantisation, torch.func."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from mmmambavision import MambaVision
from mmmambavision.models.blocks import LayerNorm

from ..helpers.compare import assert_same, gradients_and_buffers
from ..helpers.messages import facts
from ..helpers.nets import NANO, nano
from ..helpers.tiers import full


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('window', [None, (7, 4)])
def test_checkpointing_changes_nothing_but_memory(compiled, window):
    torch.manual_seed(0)
    plain, checkpointed = nano(window_size=window).train(), nano(window_size=window, with_cp=True).train()
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96)
    expected = gradients_and_buffers(plain, x)
    torch._dynamo.reset()
    run = torch.compile(checkpointed, backend='aot_eager', fullgraph=True) if compiled else None
    for a, b in zip(gradients_and_buffers(checkpointed, x, run), expected, strict=True):
        assert_same(a, b)  # batch statistics counted once


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_checkpointed_blocks_keep_nothing(frozen_stages, norm_eval):
    """Fewer bytes are kept with the stem frozen, too, when the first block's input needs no gradient."""
    x = torch.randn(2, 3, 64, 96)

    def kept_bytes(model):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
                lambda t: sizes.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t,
                lambda t: t):
            outputs = model.train()(x)
        return sum(sizes.values()), outputs

    options = dict(frozen_stages=frozen_stages, norm_eval=norm_eval)
    assert kept_bytes(nano(with_cp=True, **options))[0] < .6 * kept_bytes(nano(**options))[0]


def test_checkpointed_graph_can_be_walked_back_twice():
    torch.manual_seed(0)
    plain, checkpointed = nano().train(), nano(with_cp=True).train()
    checkpointed.load_state_dict(plain.state_dict())
    x, results = torch.randn(2, 3, 64, 64), []
    for model in (plain, checkpointed):
        loss = sum(output.sin().sum() for output in model(x))
        parameters = list(model.parameters())
        first = torch.autograd.grad(loss, parameters, retain_graph=True)
        second = torch.autograd.grad(loss, parameters)
        names = [name for name, _ in model.named_parameters()]
        results.append((dict(zip(names, first)), dict(zip(names, second)), dict(model.named_buffers())))
    for a, b in zip(*results):
        assert_same(a, b)


def test_batch_norms_that_average_over_all_batches_count_each_once():
    torch.manual_seed(0)
    plain, checkpointed = nano().train(), nano(with_cp=True).train()
    checkpointed.load_state_dict(plain.state_dict())
    for model in (plain, checkpointed):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
    for _ in range(2):
        x = torch.randn(2, 3, 64, 64)
        for a, b in zip(gradients_and_buffers(plain, x), gradients_and_buffers(checkpointed, x), strict=True):
            assert_same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize('change', ['average', 'hook'])
def test_compiled_blocks_with_breaks_count_batches_once(change):
    """Batch norms that average over all batches, and hooks, end a compiled graph inside a checkpointed block."""
    torch.manual_seed(0)
    plain, checkpointed = nano().train(), nano(with_cp=True).train()
    checkpointed.load_state_dict(plain.state_dict())

    def look(module, inputs, output):
        torch._dynamo.graph_break()

    for model in (plain, checkpointed):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and change == 'average':
                module.momentum = None
            elif isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(look)
    torch._dynamo.reset()
    run = torch.compile(checkpointed, backend='aot_eager')
    for _ in range(2):
        x = torch.randn(2, 3, 64, 64)
        expected = gradients_and_buffers(plain, x)
        for a, b in zip(gradients_and_buffers(checkpointed, x, run), expected, strict=True):
            assert_same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize('window, sample', [  # windows of 14 and 7 divide the maps of the first sample
    (None, (200, 328)), ((14, 7), (224, 448)), full((14, 7), (200, 328)), full((112, 56), (200, 328)),
    full((112, 56), (224, 448)), full(None, (224, 448))])
def test_exported_with_sizes_that_it_was_not_made_with(window, sample):
    torch.manual_seed(0)
    model = nano(window_size=window).eval()
    dims = {0: Dim('batch', min=1, max=16), 2: Dim('height', min=33, max=4096), 3: Dim('width', min=33, max=4096)}
    exported = torch.export.export(model, (torch.randn(2, 3, *sample),), dynamic_shapes=(dims,)).module()
    for batch, height, width in ((1, 64, 64), (2, 224, 224), (3, 448, 224), (1, 203, 317), (1, 97, 1900)):
        x = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            for a, b in zip(exported(x), model(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            x[:, :, -1, -1] = float('nan')  # in padding it must not appear
            for a, b in zip(exported(x), model(x), strict=True):
                assert torch.equal(a.isnan(), b.isnan())


def test_traced_graphs_have_operators_of_torch_alone():
    model, x = nano().eval(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        assert 'mmmambavision::' not in str(traced.inlined_graph)
        for a, b in zip(traced(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_quantised_linear_layers():
    torch.manual_seed(0)
    model = MambaVision('tiny').eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    count = sum(isinstance(module, torch.ao.nn.quantized.dynamic.Linear) for module in quantised.modules())
    assert count == sum(isinstance(module, nn.Linear) for module in model.modules()) > 40
    x = torch.randn(1, 3, 160, 224)
    with torch.no_grad():
        for low, full in zip(quantised(x), model(x), strict=True):
            assert 0 < (low - full).norm() < .1 * full.norm() or torch.equal(low, full)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_training_step_under_autocast(dtype):
    """In either type the gradients are those in float32, but for the rounding of linear layers and convolutions."""
    torch.manual_seed(0)
    model, x = nano().train(), torch.randn(2, 3, 64, 64)
    expected, _ = gradients_and_buffers(model, x)
    with torch.autocast('cpu', dtype):
        actual, _ = gradients_and_buffers(model, x)
    for name, value in expected.items():
        if not name.endswith(('conv1.bias', 'conv2.bias')):
            assert (actual[name] - value).norm() < .15 * value.norm() + 1e-3, name


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_norms_learn_from_many_tokens(dtype, threads):
    """The sum over 2000 tokens and no power of two at which sums in 16 bits stop."""
    torch.manual_seed(0)
    norm, before = LayerNorm(8), torch.get_num_threads()
    x = torch.randn(2000, 8).to(dtype).requires_grad_()
    torch.set_num_threads(threads)
    try:
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            out = norm(x)
        out.sum().backward()
    finally:
        torch.set_num_threads(before)
    assert out.dtype == x.grad.dtype == dtype and norm.bias.grad.tolist() == [2000.] * 8
    normed = F.layer_norm(x.detach().double(), (8,))
    torch.testing.assert_close(norm.weight.grad.double(), normed.sum(0), rtol=1e-4, atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), out)


def functional_loss(model, x):
    return lambda parameters: sum(output.sin().sum() for output in torch.func.functional_call(model, parameters, (x,)))


@pytest.mark.parametrize('backend', ['cpu', 'chunked', 'reference'])
def test_functional_gradient(backend):
    torch.manual_seed(0)
    model, x = nano(scan_backend=backend).eval(), torch.randn(1, 3, 32, 32)
    expected, _ = gradients_and_buffers(model, x)
    actual = torch.func.grad(functional_loss(model, x))({k: p.detach() for k, p in model.named_parameters()})
    assert_same(actual, expected)


def test_second_derivatives():
    """By the reference; the other implementations say that they have none."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    model = nano(scan_backend='reference', arch=dict(NANO, dim=4, in_dim=4)).double().eval()
    weight = model.levels[2].blocks[0].mixer.x_proj.weight

    def gradient():
        value, = torch.autograd.grad(sum(output.sin().sum() for output in model(x)), weight, create_graph=True)
        return value

    direction = torch.randn_like(weight)
    # Torch's others have no second derivatives.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        second, = torch.autograd.grad((gradient() * direction).sum(), weight)
    with torch.no_grad():
        steps = []
        for sign in (1, -1):
            weight += sign * 1e-5 * direction
            with torch.enable_grad():
                steps.append(gradient().detach())
            weight -= sign * 1e-5 * direction
    torch.testing.assert_close(second, (steps[0] - steps[1]) / 2e-5, rtol=1e-4, atol=1e-6)
    for backend in ('cpu', 'chunked'):
        fast = nano(scan_backend=backend).eval()
        loss = sum(output.sin().sum() for output in fast(torch.randn(1, 3, 32, 32)))
        wanted = fast.levels[2].blocks[0].mixer.x_proj.weight
        first, = torch.autograd.grad(loss, wanted, create_graph=True)
        with pytest.raises(NotImplementedError, match=facts(backend, "backend='reference'")):
            torch.autograd.grad(first.sum(), wanted)
