"""Mixers against their definitions, token by token; patterns; what the network does with both."""
import math

import pytest
import torch
import torch.nn.functional as F

from mmmambavision import MambaVision
from mmmambavision.checkpoints.weights import fit
from mmmambavision.errors import UserError
from mmmambavision.models.mixers import Attention, MambaVisionMixer
from mmmambavision.models.variants import MIXERS, spell_out
from mmmambavision.timm_models import MambaVisionClassifier

from ..helpers.messages import facts
from ..helpers.nets import NANO
from ..helpers.tiers import but_first

OTHERS = [name for name in MIXERS if name != 'mambavision']


def nano(**arch):
    return MambaVision(dict(NANO, **arch), drop_path_rate=0.)


def make(name, dim=8):
    torch.manual_seed(0)
    mixer = (MIXERS[name](dim, 2) if name == 'attention' else MIXERS[name](dim)).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=.4)
    return mixer


def scan(weights, x):
    """The recurrence of arXiv 2312.00752 (equation 2, discretised), number by number; x (L, c)."""
    rank = weights['dt_proj.weight'].shape[1]
    rate, y = -weights['A_log'].exp(), torch.zeros_like(x)
    state = torch.zeros_like(rate)
    for t in range(len(x)):
        r, b, c = (weights['x_proj.weight'] @ x[t]).split([rank, 8, 8])
        step = F.softplus(weights['dt_proj.weight'] @ r + 2 * weights['dt_proj.bias'])
        for channel in range(x.shape[1]):
            for n in range(8):
                state[channel, n] = (state[channel, n] * math.exp(step[channel] * rate[channel, n])
                                     + step[channel] * b[n] * x[t, channel])
            y[t, channel] = (c * state[channel]).sum() + weights['D'][channel] * x[t, channel]
    return y


def convolve(weight, x, before, activation=True):
    """Depthwise convolution (c, 1, 3) of x (L, c) whose first tap is `before` tokens back."""
    out = torch.zeros_like(x)
    for t in range(len(x)):
        for tap in range(3):
            if 0 <= t - before + tap < len(x):
                out[t] += weight[:, 0, tap] * x[t - before + tap]
    return out * out.sigmoid() if activation else out


def defined(name, weights, tokens):
    """What the mixer of that name makes of a sequence (L, C)."""
    if name == 'attention':
        q, k, v = (tokens @ weights['qkv.weight'].T + weights['qkv.bias']).chunk(3, 1)
        heads = [(q[:, part] @ k[:, part].T / 2.).softmax(1) @ v[:, part] for part in (slice(0, 4), slice(4, 8))]
        return torch.cat(heads, 1) @ weights['proj.weight'].T + weights['proj.bias']
    x, z = projected = (tokens @ weights['in_proj.weight'].T).chunk(2, 1)
    if name == 'conv':
        mixed = convolve(weights['conv1d_x.weight'], x, 1, activation=False) * z * z.sigmoid()
    elif name == 'no_symmetric':
        mixed = scan(weights, convolve(weights['conv1d_x.weight'], torch.cat(projected, 1), 1))
    else:
        x, z = (convolve(weights[f'conv1d_{which}.weight'], part, 2 if name == 'causal' else 1)
                for which, part in (('x', x), ('z', z)))
        y = scan(weights, x)
        if name == 'bidirectional':
            back = {key.removeprefix('back.'): value for key, value in weights.items() if key.startswith('back.')}
            y = y + scan(back, x.flip(0)).flip(0)
        mixed = y * z if name == 'no_concat' else torch.cat([y, z], 1)
    return mixed @ weights['out_proj.weight'].T


@pytest.mark.parametrize('name', MIXERS)
def test_values_are_the_definition(name):
    mixer, tokens = make(name), torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([defined(name, mixer.state_dict(), sequence) for sequence in tokens])
        torch.testing.assert_close(mixer(tokens), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', MIXERS)
def test_gradients_are_those_of_finite_differences(name):
    mixer, tokens = make(name), torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    names, values = zip(*mixer.named_parameters())
    assert torch.autograd.gradcheck(
        lambda tokens, *values: torch.func.functional_call(mixer, dict(zip(names, values)), (tokens,)),
        (tokens, *values), eps=1e-3, atol=1e-3, fast_mode=True)  # A and D are in float32


@pytest.mark.parametrize('name', MIXERS)
def test_what_a_token_reaches(name):
    """Of a sequence of 9, the tokens that change with the one in the middle."""
    mixer, tokens = make(name), torch.randn(1, 9, 8, dtype=torch.float64)
    other = tokens.clone()
    other[0, 4] += 1
    with torch.no_grad():
        changed = (mixer(tokens) != mixer(other)).any(-1)[0].nonzero().flatten().tolist()
    assert changed == {'causal': [4, 5, 6, 7, 8], 'conv': [3, 4, 5], 'bidirectional': list(range(9)),
                       'attention': list(range(9))}.get(name, [3, 4, 5, 6, 7, 8])


@pytest.mark.parametrize('dim', [64, 128, 320, 640])
def test_parameters(dim):
    counts = {name: sum(p.numel() for p in (MIXERS[name](dim, 4) if name == 'attention' else MIXERS[name](dim))
                        .parameters()) for name in MIXERS}
    for name in ('no_concat', 'causal', 'conv'):
        assert counts[name] == pytest.approx(counts['mambavision'], rel=.03), name
    assert counts['attention'] == 4 * dim ** 2 + 4 * dim


@pytest.mark.parametrize('name', ['no_concat', 'no_symmetric', 'causal', 'bidirectional', 'conv'])
def test_parameters_of_a_whole_network(name):
    with torch.device('meta'):
        default, other = (sum(p.numel() for p in MambaVision(arch).parameters()) for arch in (
            'tiny', dict(dim=80, in_dim=32, depths=(1, 3, 8, 4), num_heads=(2, 4, 8, 16), mixer=name)))
    assert other == pytest.approx(default, rel=.03)


def test_defaults_by_their_names_are_the_default():
    torch.manual_seed(0)
    default = nano()
    torch.manual_seed(0)
    named = nano(mixer='mambavision', pattern='last_half')
    assert default.state_dict().keys() == named.state_dict().keys()
    for a, b in zip(default.state_dict().values(), named.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize('pattern, letters', [
    ('last_half', ['MS', 'MMSS', 'MMMSS', 'MMMMSSSS']), ('first_half', ['SM', 'SSMM', 'SSMMM', 'SSSSMMMM']),
    ('alternate_ms', ['MS', 'MSMS', 'MSMSM', 'MSMSMSMS']), ('alternate_sm', ['SM', 'SMSM', 'SMSMS', 'SMSMSMSM']),
    ('last_quarter', ['MS', 'MMMS', 'MMMSS', 'MMMMMMSS']), ('all_m', ['MM', 'MMMM', 'M' * 5, 'M' * 8]),
    ('all_s', ['SS', 'SSSS', 'S' * 5, 'S' * 8])])
def test_patterns(pattern, letters):
    assert [spell_out(pattern, 2, depth) for depth in (2, 4, 5, 8)] == letters


def test_random_patterns():
    drawn = {seed: [spell_out(f'random:{seed}', level, 8) for level in (2, 3)] for seed in range(20)}
    assert all(sorted(letters) == list('MMMMSSSS') for pair in drawn.values() for letters in pair)
    assert len({tuple(pair) for pair in drawn.values()}) > 15 and any(a != b for a, b in drawn.values())
    assert drawn[3] == [spell_out(text, level, 8) for text, level in (('random:3', 2), ('random:03', 3))]


@pytest.mark.parametrize('mixer', MIXERS)
def test_pattern_and_mixer_together(mixer):
    network = nano(depths=(1, 1, 4, 2), mixer=mixer, pattern=('SMMS', 'alternate_ms'))
    kinds = [[type(block.mixer) for block in level.blocks] for level in network.levels[2:]]
    kind = MIXERS[mixer]
    assert kinds == [[Attention, kind, kind, Attention], [kind, Attention]]
    assert network.levels[2].blocks[0].mixer.num_heads == 2


@pytest.mark.parametrize('arch, words', [
    (dict(mixer='mamba'), ['arch.mixer', 'mambavision', 'no_concat', 'conv', "'mamba'"]),
    (dict(mixer=['conv']), ['arch.mixer', "['conv']"]),
    (dict(mixer=None), ['arch.mixer', 'None']),
    (dict(pattern='MXSS'), ['arch.pattern', 'last_half', 'random:SEED', "'MXSS'"]),
    (dict(pattern='middle'), ['arch.pattern', "'middle'"]), (dict(pattern=''), ['arch.pattern', "''"]),
    (dict(pattern='ms'), ['arch.pattern', "'ms'"]), (dict(pattern='random:x'), ['random:0', "'random:x'"]),
    (dict(pattern='random'), ['arch.pattern', "'random'"]),
    (dict(pattern='MMSS'), ['arch.pattern', "'MMSS'", '4', '2 blocks', 'level 2']),
    (dict(pattern=('MS', 'M')), ['arch.pattern', "'M'", '1', '2 blocks', 'level 3']),
    (dict(pattern=('MS', 'MS', 'MS')), ['arch.pattern', "('MS', 'MS', 'MS')"]),
    (dict(pattern=3), ['arch.pattern', 'got 3'])])
def test_errors(arch, words):
    with pytest.raises(UserError, match=facts(*words)):
        nano(**arch)


def test_classifiers_have_the_switches():
    model = MambaVisionClassifier(dict(NANO, mixer='conv', pattern='all_m'), num_classes=3)
    assert {type(block.mixer) for level in model.levels[2:] for block in level.blocks} == {MIXERS['conv']}
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_weights_of_another_pattern_are_refused():
    weights = nano(pattern='first_half').state_dict()
    with pytest.raises(UserError, match=facts('levels.2.blocks.0.mixer.proj.bias', 'levels.2.blocks.0.mixer.A_log')):
        fit(weights, nano())
    assert fit(weights, nano(pattern='first_half')) is weights
    for other in (dict(pattern='first_half'), dict(mixer='conv'), dict(mixer='no_concat')):
        with pytest.raises(UserError, match=facts('arch.mixer', 'arch.pattern')):
            fit(nano(**other).state_dict(), nano())


def gradients(model, x, run=None):
    model.zero_grad()
    sum(output.sin().sum() for output in (model if run is None else run)(x)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if not name.endswith(
        ('conv1.bias', 'conv2.bias'))}  # 0 before a batch norm, but for rounding


@pytest.mark.parametrize('window', [None, (7, 4), ('balanced', 3)])
@pytest.mark.parametrize('mixer', OTHERS)
def test_trains_with_and_without_checkpointing(mixer, window):
    arch, x = dict(NANO, mixer=mixer), torch.randn(2, 3, 64, 96)
    plain = MambaVision(arch, window_size=window, drop_path_rate=0.)
    saving = MambaVision(arch, window_size=window, drop_path_rate=0., with_cp=True)
    saving.load_state_dict(plain.state_dict())
    expected = gradients(plain, x)
    assert all(value.any() for name, value in expected.items() if '.mixer.' in name)
    for name, value in gradients(saving, x).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('mixer', OTHERS)
def test_compiles(mixer):
    torch.manual_seed(0)
    model, x = nano(mixer=mixer).train(), torch.randn(2, 3, 64, 64)
    torch._dynamo.reset()
    expected = gradients(model, x)
    for name, value in gradients(model, x, torch.compile(model, backend='aot_eager', fullgraph=True)).items():
        assert (value - expected[name]).norm() <= 1e-3 * expected[name].norm(), name


@pytest.mark.slow
@pytest.mark.parametrize('mixer', but_first(OTHERS[::-1]))
def test_exports_for_any_size(mixer, tmp_path):
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    from mmmambavision.export.onnx import export, read
    torch.manual_seed(0)
    model = nano(mixer=mixer, pattern='alternate_sm').eval()
    export(model, torch.randn(2, 3, 200, 264), tmp_path / 'm.onnx')
    session = read(tmp_path / 'm.onnx')
    for size in ((1, 3, 64, 64), (2, 3, 203, 317)):
        x = torch.randn(size)
        with torch.no_grad():
            expected = model(x)
        for found, wanted in zip(session.run(None, {'images': x.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)


def test_mixers_with_a_scan_can_be_looked_into():
    """`tools/visualize.py scan` finds them by their class."""
    without = {name for name, mixer in MIXERS.items() if not issubclass(mixer, MambaVisionMixer)}
    assert without == {'attention', 'conv'}
