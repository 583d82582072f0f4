"""Whatever is in a file: its right contents or a UserError, no code run, no crash, no hang, little memory."""
import collections
import json
import struct
import zipfile

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from mmmambavision.checkpoints.files import read_checkpoint
from mmmambavision.cli import parse
from mmmambavision.cli import train as command
from mmmambavision.cli.work import train as work
from mmmambavision.errors import UserError
from mmmambavision.terminal import run

from ..helpers.messages import facts
from ..helpers.tiers import full
from . import hostile

MEGABYTES = 100  # for files of some KB to 300 KB; torch's own reader takes some when it is first used


@pytest.mark.filterwarnings('ignore:.*')
@pytest.mark.parametrize('count, seed', [
    (200, 0), *(full(500, seed) for seed in range(1, 5))])
def test_hostile_files(count, seed, tmp_path):
    files = hostile.corpus(tmp_path, count, seed)
    ended = hostile.read_all(files, tmp_path / 'report')
    lines = [json.loads(line) for line in (tmp_path / 'report').read_text().splitlines()]
    assert ended == 0 and len(lines) == count, f'{list(files)[len(lines)]} ended the process: {ended}'
    wrong = [line for line in lines if line[1] not in ('refused', 'read', 'same')]
    assert not wrong
    grown = [line for line, before in zip(lines, [(0, 0, 0), *lines]) if line[2] - before[2] > MEGABYTES]
    assert not grown
    assert not (tmp_path / 'canary').exists()
    found = collections.Counter(line[1] for line in lines)
    assert all(found[kind] for kind in ('refused', 'read', 'same')), found


def test_the_originals_are_read(tmp_path):
    for form, data in hostile.originals().items():
        path = tmp_path / ('a.safetensors' if form == 'safetensors' else 'a.pth')
        path.write_bytes(data)
        value = read_checkpoint(path)
        expected = hostile.contents()
        if form == 'safetensors':
            assert all(torch.equal(value[name], tensor) for name, tensor in expected['state_dict'].items())
        else:
            assert hostile.digest(value) == hostile.digest(expected)


def test_every_bit_of_a_weight_counts(tmp_path):
    """In a zip file a flip is seen by the checksum; safetensors has none: the flipped weight is what the file holds."""
    path = tmp_path / 'a.pth'
    torch.save(dict(weight=torch.arange(100.)), path)
    with zipfile.ZipFile(path) as file:
        record = file.getinfo('a/data/0')
    data = bytearray(path.read_bytes())
    start = data.index(struct.pack('<4f', 0, 1, 2, 3))
    assert start > record.header_offset
    for offset in (0, 399):
        flipped = bytearray(data)
        flipped[start + offset] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=facts('a.pth', 'a/data/0')):
            read_checkpoint(path)
    save_file(dict(weight=torch.arange(100.)), tmp_path / 'a.safetensors')
    data = bytearray((tmp_path / 'a.safetensors').read_bytes())
    data[-1] ^= 128
    (tmp_path / 'a.safetensors').write_bytes(data)
    expected = torch.cat([torch.arange(99.), torch.tensor([-99.])])
    assert torch.equal(read_checkpoint(tmp_path / 'a.safetensors')['weight'], expected)


@pytest.mark.parametrize('damage', ['cut', 'flip'])
def test_resume_passes_over_a_damaged_checkpoint(damage, tmp_path, capsys):
    weights = torch.arange(1000.)
    for number in (1, 2):
        torch.save(dict(state_dict=dict(weight=weights)), tmp_path / f'iter_{number}.pth')
    last = tmp_path / 'iter_2.pth'
    data = bytearray(last.read_bytes())
    data[data.index(struct.pack('<2f', 500, 501))] ^= 4
    last.write_bytes(data if damage == 'flip' else data[:len(data) // 2])
    cfg = Config(dict(work_dir=str(tmp_path)))
    work.apply_options(cfg, parse(command, ['x.py', '--resume']))
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'iter_1.pth'))
    assert str(last) in capsys.readouterr().out
    cfg = Config(dict(work_dir=str(tmp_path), model={}))
    work.apply_options(cfg, parse(command, ['x.py', '--resume', str(last)]))
    with pytest.raises(SystemExit, match=str(last)):
        run(lambda: work.check_weights(cfg))
