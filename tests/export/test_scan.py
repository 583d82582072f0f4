"""The scan in ONNX Runtime against its definition in float64."""
import pytest
import torch

pytest.importorskip('onnxscript')
onnxruntime = pytest.importorskip('onnxruntime')

from mmmambavision.errors import UserError  # noqa: E402
from mmmambavision.export.scan import translations  # noqa: E402
from mmmambavision.ops import selective_scan  # noqa: E402

CHANNELS, STATES = 6, 4
LENGTHS = (1, 15, 16, 17, 256, 257, 4097, 12544)


class Scan(torch.nn.Module):
    """With every option, and with none."""

    def __init__(self, plain, groups=1):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.A = -torch.rand(CHANNELS, STATES, generator=generator) * STATES
        self.D, self.bias = torch.randn(2, CHANNELS, generator=generator)
        self.plain, self.groups = plain, groups

    def forward(self, u, delta, B, C, z):
        options = {} if self.plain else dict(D=self.D, z=z, delta_bias=self.bias, delta_softplus=True)
        if self.groups > 1:
            B, C = (value.unsqueeze(1).expand(-1, self.groups, -1, -1) for value in (B, C))
        A = self.A.double() if u.dtype == torch.float64 else self.A
        options = {k: v.double() if torch.is_tensor(v) and u.dtype == torch.float64 else v for k, v in options.items()}
        return selective_scan(u, delta, A, B, C, return_last_state=True, backend='auto' if u.dtype == torch.float32
                              else 'reference', **options)


def inputs(length, batch=2, step=1.):
    """Random values; steps are `step` times numbers from 0 to 1 before softplus."""
    generator = torch.Generator().manual_seed(length)
    u, z = torch.randn(2, batch, CHANNELS, length, generator=generator)
    delta = step * torch.rand(batch, CHANNELS, length, generator=generator)
    B, C = torch.randn(2, batch, STATES, length, generator=generator)
    return u, delta, B, C, z


def export(module, form, folder):
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        module.eval(), inputs(40), dynamo=True, opset_version=20, verbose=False,
        input_names=['u', 'delta', 'B', 'C', 'z'],
        dynamic_shapes=({0: dynamic, 2: dynamic},) * 5, custom_translation_table=translations(form))
    program.save(str(folder / 'scan.onnx'))
    return onnxruntime.InferenceSession(str(folder / 'scan.onnx')), program.model


def run(session, values):
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {k: v.numpy() for k, v in zip(('u', 'delta', 'B', 'C', 'z'), values) if k in names})


@pytest.mark.parametrize('form', ['loop-free', 'scan'])
@pytest.mark.parametrize('plain', [False, True], ids=['all options', 'plain'])
def test_any_length(form, plain, tmp_path):
    """Steps around 1, near 0 and near 100 (there with softplus, which leaves them as they are)."""
    module = Scan(plain)
    session, model = export(module, form, tmp_path)
    for step in (1., 1e-4) if plain else (1., 1e-4, 100.):
        for length in LENGTHS:
            values = inputs(length, batch=1 if length > 5000 else 3, step=step)
            expected = module(*(value.double() for value in values))
            for name, a, b in zip(('y', 'last state'), expected, run(session, values), strict=True):
                error = ((a - torch.from_numpy(b)).abs() / (1 + a.abs())).max().item()
                assert error < 1e-4, (name, step, length, error)
    operators = {node.op_type for node in model.graph}
    assert ('Scan' in operators) == (form == 'scan')
    assert not operators & {'Loop', 'If', 'CumSum', 'NonZero', 'SequenceConstruct', 'SequenceAt', 'ConcatFromSequence'}
    assert {node.domain for node in model.graph} == {''}


def test_longer_than_it_can_is_refused(tmp_path, monkeypatch):
    """16 ** 4 steps are taken; here of a scan with two levels, 256 steps."""
    from mmmambavision.export import scan
    monkeypatch.setattr(scan, 'LEVELS', 2)
    module = Scan(False)
    session, _ = export(module, 'loop-free', tmp_path)
    values = inputs(256)
    torch.testing.assert_close(torch.from_numpy(run(session, values)[0]).double(),
                               module(*(value.double() for value in values))[0], atol=1e-4, rtol=1e-4)
    for length in (257, 300, 512, 4096):
        with pytest.raises(Exception, match='Reshape'):
            run(session, inputs(length))


def test_groups_are_refused(tmp_path):
    with pytest.raises(Exception) as raised:
        export(Scan(False, groups=2), 'loop-free', tmp_path)
    error = raised.value
    while not isinstance(error, UserError):  # torch wraps it in its own
        error = error.__cause__
    assert '2 groups' in str(error)
