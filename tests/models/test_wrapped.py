"""What other libraries wrap around layers, or put in the place of their weights, takes effect in every layer."""
import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from mmmambavision.errors import UserError
from mmmambavision.models.variants import MIXERS
from mmmambavision.ops import selective_scan

from ..helpers.nets import NANO, nano

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
SCANS = [name for name in MIXERS if name not in ('mambavision', 'attention')]


@pytest.fixture(params=['mambavision', *SCANS])
def network(request):
    torch.manual_seed(0)
    model = nano(arch=dict(NANO, mixer=request.param)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=.3, std=.1)
    return model


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_layer_is_called_once(network, images):
    expected, calls = network(images), []
    for name, layer in layers(network).items():
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    assert_equal(network(images), expected)
    assert sorted(calls) == sorted(layers(network))


@torch.no_grad()
def test_replaced_forwards_are_called_once(network, images):
    expected, calls = network(images), []

    def counted(name, forward):
        return lambda x: calls.append(name) or forward(x)

    for name, layer in layers(network).items():
        layer.forward = counted(name, layer.forward)
    assert_equal(network(images), expected)
    assert sorted(calls) == sorted(layers(network))


@torch.no_grad()
@pytest.mark.parametrize('kind', [nn.Linear, nn.Conv1d])
def test_forwards_replaced_in_the_class_are_called(kind, network, images, monkeypatch):
    forward, calls = kind.forward, []
    monkeypatch.setattr(kind, 'forward', lambda layer, x: calls.append(layer) or forward(layer, x))
    network(images)
    assert len(calls) == sum(type(layer) is kind for layer in network.modules())


@torch.no_grad()
def test_global_hooks_see_every_layer(network, images):
    called = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(module))
    try:
        network(images)
    finally:
        handle.remove()
    assert set(layers(network).values()) <= called


@torch.no_grad()
def test_layers_are_called_inside_their_levels(network, images):
    """A wrapper around a level, such as sharding or offloading, has the weights there only during the level's call."""
    inside, outside = [], []
    for level in network.levels:
        level.register_forward_pre_hook(lambda level, _: inside.append(level))
        level.register_forward_hook(lambda level, *_: inside.remove(level))
        for name, layer in layers(level).items():
            layer.register_forward_pre_hook(
                lambda *_, level=level, name=name: None if level in inside else outside.append(name))
    network(images)
    assert not outside


@torch.no_grad()
def test_offloaded_weights(network, images):
    """Weights that are on the meta device but for the time of their layer's call, as accelerate has it."""
    expected = network(images)

    def offload(layer):
        weights, call = {name: p.data.clone() for name, p in layer.named_parameters(recurse=False)}, layer.forward

        def put(device):
            for name, value in weights.items():
                layer._parameters[name] = nn.Parameter(value.to(device), requires_grad=False)

        def forward(*arguments):
            put('cpu')
            try:
                return call(*arguments)
            finally:
                put('meta')

        put('meta')
        layer.forward = forward

    for layer in layers(network).values():
        offload(layer)
    assert_equal(network(images), expected)


@torch.no_grad()
def test_storages_that_hooks_free_between_calls(network, images):
    """The parameters stay what they are, plain and on the CPU; their memory is there during the call alone."""
    expected = network(images)

    def lend(layer):
        lent = [(p.data, p.data.clone()) for p in layer.parameters(recurse=False)]

        def fill(*_):
            for data, value in lent:
                data.untyped_storage().resize_(value.nbytes)
                data.copy_(value)

        def free(*_):
            for data, _ in lent:
                data.untyped_storage().resize_(0)

        layer.register_forward_pre_hook(fill)
        layer.register_forward_hook(free)
        free()

    for layer in layers(network).values():
        lend(layer)
    assert_equal(network(images), expected)


@torch.no_grad()
def test_offloading_by_accelerate(network, images):
    accelerate = pytest.importorskip('accelerate')
    expected = network(images)
    assert_equal(accelerate.cpu_offload(network, torch.device('cpu'))(images), expected)


@torch.no_grad()
@pytest.mark.parametrize('part', ['weight', 'bias'])
def test_parametrisations(part, network, images):
    class Double(nn.Module):
        def forward(self, value):
            return 2 * value

    doubled = copy.deepcopy(network)
    for layer in layers(doubled).values():
        if getattr(layer, part) is not None:
            getattr(layer, part).mul_(2)
    for layer in layers(network).values():
        if getattr(layer, part) is not None:
            parametrize.register_parametrization(layer, part, Double())
    assert_equal(network(images), doubled(images))


def test_pruned_layers_train(network, images):
    masks = {}
    for name, layer in layers(network).items():
        prune.random_unstructured(layer, 'weight', .4)
        masks[name] = layer.weight_mask
        if layer.bias is not None:
            prune.random_unstructured(layer, 'bias', .4)
    optimizer = torch.optim.SGD(network.parameters(), .1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(output.square().mean() for output in network(images)).backward()
        optimizer.step()
    for name, layer in layers(network).items():
        assert not layer.weight_orig.grad[masks[name] == 0].any() and layer.weight_orig.grad.any(), name


class Adapter(nn.Module):
    """A low-rank addition to a layer, as LoRA has it, with a bias of its own."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.scale, self.shift = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(.1))

    def forward(self, x):
        return self.scale * self.layer(x) + self.shift


def test_adapters_learn(network, images):
    expected = network(images)
    adapters = []
    for name, layer in layers(network).items():
        parent, _, child = name.rpartition('.')
        adapters.append(Adapter(layer))
        setattr(network.get_submodule(parent), child, adapters[-1])
    outputs = network(images)
    assert not any(torch.equal(a, b) for a, b in zip(outputs, expected))
    sum(output.sin().sum() for output in outputs).backward()
    assert [adapter for adapter in adapters if not (adapter.scale.grad and adapter.shift.grad)] == []


class Scaled(torch.Tensor):
    """A weight that is another type of tensor, as quantised and sharded ones are: it counts its uses, and doubles."""
    uses = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if function in (nn.functional.linear, nn.functional.conv1d, torch.conv1d, torch.conv2d):
                cls.uses += 1
                args = [2 * a.as_subclass(torch.Tensor) if isinstance(a, Scaled) else a for a in args]
            return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_weights_of_other_types(network, images):
    doubled = copy.deepcopy(network)
    for layer in layers(doubled).values():
        layer.weight.mul_(2)
    for layer in layers(network).values():
        layer._parameters['weight'] = layer.weight.data.as_subclass(Scaled)
    before = Scaled.uses
    assert_equal(network(images), doubled(images))
    assert Scaled.uses - before == len(layers(network))


@torch.no_grad()
def test_quantisation_by_torchao(images):
    torchao = pytest.importorskip('torchao.quantization')
    torch.manual_seed(0)
    model = nano(arch=dict(NANO, dim=32)).eval()
    expected = model(images)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    for a, b in zip(model(images), expected, strict=True):
        assert 0 < (a - b).norm() < .05 * b.norm() or torch.equal(a, b)


def test_lora_by_peft(images):
    peft = pytest.importorskip('peft')
    model = nano().eval()
    names = ['conv1d_x', 'conv1d_z', 'dt_proj', 'x_proj', 'in_proj', 'out_proj', 'qkv', 'proj', 'fc1', 'fc2']
    model = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=names, r=64), model)
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            nn.init.normal_(parameter)
    sum(output.square().mean() for output in model(images)).backward()
    learning = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * 2 * (8 + 4) and all(grad.any() for grad in learning.values())


@pytest.mark.parametrize('own', ['A_log', 'D'])
def test_nothing_is_computed_from_meta(network, images, own):
    """Not even where one layer alone has no values; torch would return memory as it was found."""
    for name in layers(network):
        broken = copy.deepcopy(network)
        broken.get_submodule(name).to('meta')
        with pytest.raises((UserError, RuntimeError), match='meta'):
            broken(images)
    for name, layer in layers(network).items():
        if layer.bias is not None:
            broken = copy.deepcopy(network)
            own_layer = broken.get_submodule(name)
            own_layer.bias = nn.Parameter(own_layer.bias.to('meta'))
            with pytest.raises((UserError, RuntimeError), match='meta'):
                broken(images)
    for name, parameter in network.named_parameters():
        if name.endswith(own):
            broken = copy.deepcopy(network)
            parent, _, child = name.rpartition('.')
            broken.get_submodule(parent)._parameters[child] = nn.Parameter(parameter.data.to('meta'))
            with pytest.raises(ValueError, match='meta'):
                broken(images)


@pytest.mark.parametrize('backend', ['cpu', 'chunked', 'reference'])
def test_storages_of_parameters_can_be_resized_after_a_scan(backend):
    """Sharded training frees the memory of parameters between their uses."""
    u, delta = torch.randn(2, 1, 4, 9).requires_grad_().unbind()
    A, D, bias = (nn.Parameter(-torch.rand(size)) for size in ((4, 3), (4,), (4,)))
    B, C = torch.randn(2, 1, 3, 9).unbind()
    y = selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True, backend=backend)
    y.sum().backward()
    for parameter in (A, D, bias):
        parameter.untyped_storage().resize_(0)
