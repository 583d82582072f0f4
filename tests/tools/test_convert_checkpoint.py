import pytest
import torch

from mmmambavision import MambaVision
from mmmambavision.checkpoints.files import read_checkpoint
from mmmambavision.cli.convert_checkpoint import main
from mmmambavision.terminal import run

from ..helpers.nets import FORMS, NANO, Detector, save


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
@pytest.mark.parametrize('form', FORMS)
def test_every_form_becomes_its_weights(form, suffix, tmp_path, capsys):
    source = MambaVision(NANO)
    out = tmp_path / f'slim{suffix}'
    main([str(save(form, source, tmp_path)), str(out)])
    assert str(out) in capsys.readouterr().out
    slim = read_checkpoint(out)
    state = slim['state_dict'] if suffix == '.pth' else slim
    expected = Detector(source).state_dict() if form == 'mmengine detector' else {
        k: v for k, v in source.state_dict().items() if not k.startswith('outnorm')}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[k], v) for k, v in expected.items() if not k.startswith('neck'))
    model = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=str(out)))
    model.init_weights()
    assert torch.equal(model.levels[3].blocks[1].mlp.fc1.weight, source.levels[3].blocks[1].mlp.fc1.weight)


def test_errors(tmp_path):
    (tmp_path / 'mine.pth').write_text('keep')
    for out in ('mine.pth', 'x.bin'):
        with pytest.raises(SystemExit, match=out):
            run(lambda: main(['x.pth', str(tmp_path / out)]))
    assert (tmp_path / 'mine.pth').read_text() == 'keep'
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), tmp_path / 'other.pth')
    with pytest.raises(SystemExit, match='MambaVision'):
        run(lambda: main([str(tmp_path / 'other.pth'), str(tmp_path / 'x.pth')]))


def test_dicts_of_dicts_and_tensors_without_values(tmp_path):
    state = Detector(MambaVision(NANO)).state_dict()
    torch.save(dict(model=state, epoch=1), tmp_path / 'x.pth')
    main([str(tmp_path / 'x.pth'), str(tmp_path / 'slim.pth')])
    slim = read_checkpoint(tmp_path / 'slim.pth')['state_dict']
    assert slim.keys() == state.keys() and all(torch.equal(slim[name], value) for name, value in state.items())
    torch.save({name: value.to('meta') for name, value in state.items()}, tmp_path / 'y.pth')
    with pytest.raises(SystemExit, match='meta'):
        run(lambda: main([str(tmp_path / 'y.pth'), str(tmp_path / 'z.pth')]))


def test_weights_by_their_key(tmp_path):
    state = Detector(MambaVision(NANO)).state_dict()
    torch.save(dict(state_dict={k: torch.zeros_like(v) for k, v in state.items()}, ema=state), tmp_path / 'x.pth')
    main([f'{tmp_path}/x.pth#ema', str(tmp_path / 'slim.pth')])
    slim = read_checkpoint(tmp_path / 'slim.pth')['state_dict']
    assert slim.keys() == state.keys() and all(torch.equal(slim[name], value) for name, value in state.items())
