"""Weights out of every released form of file, by every way that reads one, and nothing run by unpickling."""
import http.server
import os
import re
import subprocess
import sys
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file
from torch import nn

from mmmambavision import MambaVision
from mmmambavision.checkpoints.files import fetch, read_checkpoint
from mmmambavision.checkpoints.names import STEM, backbone_weights
from mmmambavision.checkpoints.weights import adapt_to_channels, describe
from mmmambavision.errors import UnreachableError
from mmmambavision.presets import PRESETS

from ..helpers.messages import facts
from ..helpers.nets import FORMS, NANO, Detector, behind, classifier, save
from ..helpers.process import free_port


@pytest.fixture
def source():
    torch.manual_seed(0)
    return MambaVision(NANO)


def assert_same(model, source, but=('outnorm',)):
    for name, value in source.state_dict().items():
        if not name.startswith(but):
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize('form', FORMS)
def test_init_cfg_takes_every_form(form, source, tmp_path, logged):
    path = save(form, source, tmp_path)
    model = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    assert_same(model, source)
    line, = [line for line in logged if 'loaded' in line]
    left, new = ('neck (2)', 'nothing') if form == 'mmengine detector' else ('head (2), norm (2)', 'outnorm0 (2), ')
    assert re.search(facts(left, new), line)


@pytest.mark.parametrize('form', FORMS)
def test_load_from_takes_every_form(form, source, tmp_path):
    """By mmengine's own function, as Runner's load_from does, into a detector and into a backbone by itself."""
    path = str(save(form, source, tmp_path))
    detector, backbone = Detector(MambaVision(NANO)), MambaVision(NANO)
    load_checkpoint(detector, path)
    load_checkpoint(backbone, path)
    assert_same(detector.backbone, source)
    assert_same(backbone, source)


def test_mapping_is_pure(source):
    checkpoint = dict(state_dict=behind('module.', classifier(source)), epoch=3)
    before = list(checkpoint['state_dict'])
    weights, rest = backbone_weights(checkpoint)
    assert list(checkpoint['state_dict']) == before
    assert weights.keys() == {k for k in source.state_dict() if not k.startswith('outnorm')}
    assert rest == ['module.head.bias', 'module.head.weight', 'module.norm.bias', 'module.norm.weight']


def test_nothing_to_map():
    with pytest.raises(ValueError, match='layer1.weight'):
        backbone_weights({'layer1.weight': torch.zeros(1)})


@pytest.mark.parametrize('arch', PRESETS)
def test_presets_are_told_from_weights(arch):
    with torch.device('meta'):
        weights = MambaVision(arch).state_dict()
    sizes = describe(weights)
    assert all(sizes[key] == PRESETS[arch][key] for key in ('dim', 'in_dim', 'depths'))
    assert sizes['layer_scale'] == (PRESETS[arch]['layer_scale'] is not None)


@pytest.mark.parametrize('load', ['init_cfg', 'load_from'])
def test_another_preset_is_an_error_that_names_it(load, tmp_path):
    torch.save(dict(state_dict=classifier(MambaVision('tiny2'))), tmp_path / 'x.pth')
    model = MambaVision('tiny', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    with pytest.raises(ValueError, match=facts("'tiny2'", "'tiny'")):
        model.init_weights() if load == 'init_cfg' else load_checkpoint(Detector(model), str(tmp_path / 'x.pth'))


def test_fewer_levels_take_their_part(source, tmp_path):
    path = save('pth.tar', source, tmp_path)
    model = MambaVision(NANO, out_indices=(0, 1), init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    for name, value in model.state_dict().items():
        if not name.startswith('outnorm'):
            assert torch.equal(value, source.state_dict()[name])


class Bomb:
    """Pickles to a call of os.mkdir."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('by', ['init_cfg', 'load_from', 'url'])
def test_pickled_code_does_not_run(by, legacy, source, tmp_path, server):
    torch.save(dict(state_dict=classifier(source), extra=Bomb(tmp_path / 'boom')), tmp_path / 'bomb.pth',
               _use_new_zipfile_serialization=not legacy)
    model = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'bomb.pth')))
    file = server + '/bomb.pth' if by == 'url' else str(tmp_path / 'bomb.pth')
    with pytest.raises(ValueError, match=r'(posix|nt)\.mkdir'):
        model.init_weights() if by == 'init_cfg' else load_checkpoint(model, file)
    assert not (tmp_path / 'boom').exists()
    os.mkdir(tmp_path / 'boom')  # what it would have done works


class OpensEverything:
    """Pickles to getattr(HistoryBuffer, '__subclasses__'); getattr of any name opens every object."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__subclasses__')


def test_getattr_opens_history_buffers_only(tmp_path):
    torch.save(dict(x=OpensEverything()), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='__subclasses__'):
        read_checkpoint(tmp_path / 'x.pth')
    torch.save(dict(x=HistoryBuffer([1., 3.], [1, 1])), tmp_path / 'y.pth')
    assert read_checkpoint(tmp_path / 'y.pth')['x'].mean() == 2.


@pytest.mark.parametrize('core', ['core', '_core'])
def test_numpy_of_either_version(core, tmp_path):
    """Arrays and scalars under the names that numpy 1 and numpy 2 give them in pickles."""
    torch.save(dict(a=np.arange(3.), s=np.float32(2.), i=np.int64(5), b=np.bool_(True)), tmp_path / 'new.zip')
    with zipfile.ZipFile(tmp_path / 'new.zip') as new, zipfile.ZipFile(tmp_path / 'a.pth', 'w') as old:
        for name in new.namelist():
            renamed = re.sub(rb'cnumpy\._?core', b'cnumpy.' + core.encode(), new.read(name))
            old.writestr(name, renamed)
            assert not name.endswith('data.pkl') or b'cnumpy.%b.multiarray' % core.encode() in renamed
    data = read_checkpoint(tmp_path / 'a.pth')
    np.testing.assert_array_equal(data['a'], np.arange(3.))
    assert (data['s'], data['i'], data['b']) == (2., 5, True)


@pytest.fixture
def requests():
    """Paths that the server was asked for."""
    return []


@pytest.fixture
def server(tmp_path, monkeypatch, requests):
    """A web server on this machine over tmp_path."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    handler = partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


@pytest.mark.parametrize('form', ['safetensors', 'pth.tar'])
def test_by_url(form, source, tmp_path, server):
    path = save(form, source, tmp_path)
    model = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=f'{server}/{path.name}'))
    model.init_weights()
    assert_same(model, source)


def test_url_that_is_not_there(server):
    model = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=f'{server}/nothing.pth'))
    with pytest.raises(UnreachableError, match=f'{server}/nothing.pth'):
        model.init_weights()


@pytest.fixture
def hub(tmp_path, monkeypatch, source):
    """A Hugging Face cache that has one file, and no network."""
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    repository = tmp_path / 'models--nvidia--MambaVision-T-1K'
    (repository / 'snapshots' / 'abc').mkdir(parents=True)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text('abc')
    save('safetensors', source, repository / 'snapshots' / 'abc')


@pytest.mark.parametrize('name', ['hf://nvidia/MambaVision-T-1K', 'hf://nvidia/MambaVision-T-1K/model.safetensors'])
def test_by_hugging_face(name, hub, source):
    model = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=name))
    model.init_weights()
    assert_same(model, source)


def test_hugging_face_names_and_absence(hub):
    for name, error, message in [('hf://nvidia', ValueError, 'hf://owner/repository'),
                                 ('hf://nvidia/other', UnreachableError, 'nvidia/other')]:
        with pytest.raises(error, match=message):
            MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=name)).init_weights()


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match='no.pth'):
        read_checkpoint(tmp_path / 'no.pth')
    for name in ('text.pth', 'text.safetensors'):
        Path(tmp_path / name).write_text('hello')
        with pytest.raises(ValueError, match=name):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_pointers_of_git_lfs(suffix, tmp_path):
    file = tmp_path / f'x{suffix}'
    file.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 127\n')
    with pytest.raises(ValueError, match=facts(file, 'git lfs pull')):
        read_checkpoint(file)


def test_refusal_names_the_way_for_a_class_that_the_user_trusts(tmp_path):
    torch.save(dict(x=Mine()), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'torch.serialization.add_safe_globals\(\[Mine\]\)'):
        read_checkpoint(tmp_path / 'x.pth')
    with torch.serialization.safe_globals([Mine]):
        assert isinstance(read_checkpoint(tmp_path / 'x.pth')['x'], Mine)


class Mine:
    pass


def test_configs_in_checkpoints_are_harmless(tmp_path):
    torch.save(dict(meta=ConfigDict(model=dict(type='X', sizes=[1, 2], inner=dict(a=1)))), tmp_path / 'x.pth')
    meta = read_checkpoint(tmp_path / 'x.pth')['meta']
    assert isinstance(meta, ConfigDict) and meta.model.inner.a == 1 and meta.model.sizes == [1, 2]


@pytest.mark.parametrize('map_location', [
    None, 'cpu', torch.device('cpu'), 'meta', torch.device('meta'), {'cpu': 'meta'}, {'cuda:0': 'cpu'},
    lambda storage, location: storage, lambda storage, location: None])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_map_location(map_location, suffix, tmp_path):
    """Means for one kind of file what torch.load has it mean for the other."""
    weights = dict(a=torch.arange(6.).view(2, 3))
    path = tmp_path / f'x.{suffix}'
    torch.save(weights, path) if suffix == 'pth' else save_file(weights, path)
    tensor = read_checkpoint(path, map_location)['a']
    if 'meta' in str(map_location):
        assert tensor.device.type == 'meta' and tensor.shape == (2, 3)
    else:
        assert torch.equal(tensor, weights['a'])


FOREIGN = {
    'another third level': {'levels.0.blocks.0.conv1.weight': (2, 2), 'levels.2.blocks.0.attn.qkv.weight': (2, 2)},
    'stages': {'stages.0.w': (2, 2)}, 'blocks': {'blocks.0.w': (2, 2)},
    'other levels': {'levels.0.conv.weight': (2, 2)}}


@pytest.mark.parametrize('kind', FOREIGN)
def test_foreign_networks_are_left_alone(kind, tmp_path):
    """Networks whose stem has our names, as FasterViT's has, and whose levels have not."""
    state = {name: torch.ones(shape) for name, shape in {STEM: (4, 3, 3, 3), **FOREIGN[kind]}.items()}
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='MambaVision'):
        backbone_weights(state)
    network = nn.Module()
    for name, value in state.items():
        *path, leaf = name.split('.')
        module = network
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_buffer(leaf, torch.zeros_like(value))
    load_checkpoint(network, str(tmp_path / 'x.pth'), strict=True)
    assert all(value.all() for value in network.state_dict().values())


def test_a_backbone_by_itself_is_a_detectors_start(source, tmp_path):
    """With its norms; and checked like any other."""
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    detector = Detector(MambaVision(NANO))
    load_checkpoint(detector, str(tmp_path / 'x.pth'))
    assert_same(detector.backbone, source, but=())
    torch.save(MambaVision(NANO, in_channels=4).state_dict(), tmp_path / 'y.pth')
    with pytest.raises(ValueError, match='in_channels=4'):
        load_checkpoint(detector, str(tmp_path / 'y.pth'))


def test_what_mmengine_saved_comes_whole(source, tmp_path):
    saved = dict(state_dict=source.state_dict(), meta=dict(mmengine_version='0.10.7'), optimizer=dict(a=1))
    torch.save(saved, tmp_path / 'x.pth')
    from mmengine.runner.checkpoint import _load_checkpoint
    assert _load_checkpoint(str(tmp_path / 'x.pth'))['optimizer'] == dict(a=1)


@pytest.mark.parametrize('missing', ['levels.3.', 'levels.0.blocks.0.norm1.num_batches_tracked', 'outnorm1.', STEM])
def test_parts_are_loaded_and_the_rest_reported(missing, source, tmp_path):
    """By torch's load_state_dict and by mmengine."""
    state = source.state_dict()
    gone = [k for k in state if k.startswith(missing)]
    for name in gone:
        del state[name]
    model = MambaVision(NANO)
    assert model.load_state_dict(state, strict=False).missing_keys == gone
    assert_same(model, source, but=missing)
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    model = MambaVision(NANO)
    load_checkpoint(model, str(tmp_path / 'x.pth'))
    assert_same(model, source, but=missing)
    with pytest.raises(RuntimeError, match=re.escape(gone[0])):
        MambaVision(NANO).load_state_dict(state)


def test_load_state_dict_is_as_strict_as_torch(source):
    state = {**source.state_dict(), 'head.weight': torch.ones(2)}
    with pytest.raises(RuntimeError, match='head.weight'):
        MambaVision(NANO).load_state_dict(state)
    assert MambaVision(NANO).load_state_dict(state, strict=False).unexpected_keys == ['head.weight']
    with pytest.raises(RuntimeError, match='model.patch_embed'):
        MambaVision(NANO).load_state_dict(behind('model.', source.state_dict()))


@pytest.mark.parametrize('channels', [1, 2, 4, 6, 7])
def test_stem_for_other_images(channels, source, tmp_path, logged):
    """Equal channels give what they gave with three; the log says what was done."""
    path = save('pth.tar', source, tmp_path)
    model = MambaVision(NANO, in_channels=channels, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    assert any(re.search(facts('stem', '3 channels', channels), line) for line in logged)
    assert_same(model, source, but=('outnorm', STEM))
    grey = torch.randn(2, 1, 32, 32)
    expected = source.patch_embed.eval()(grey.repeat(1, 3, 1, 1))
    if channels % 3 == 0 or channels == 1:
        actual = model.patch_embed.eval()(grey.repeat(1, channels, 1, 1))
        torch.testing.assert_close(actual, expected)
    detector = Detector(MambaVision(NANO, in_channels=channels))
    load_checkpoint(detector, str(path))
    assert torch.equal(detector.backbone.patch_embed.conv_down[0].weight, model.patch_embed.conv_down[0].weight)


def test_channels_are_repeated_in_turn():
    weight = torch.arange(12.).view(2, 3, 2, 1)
    assert torch.equal(adapt_to_channels(weight, 1), weight.sum(1, keepdim=True))
    five = adapt_to_channels(weight, 5)
    assert torch.equal(five, weight[:, [0, 1, 2, 0, 1]] * .6)


def test_stem_of_other_weights_is_an_error(tmp_path):
    torch.save(MambaVision(NANO, in_channels=4).state_dict(), tmp_path / 'x.pth')
    model = MambaVision(NANO, in_channels=1, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    with pytest.raises(ValueError, match=facts('x.pth', '4 channels', 'in_channels=4')):
        model.init_weights()


@pytest.mark.parametrize('init_cfg', [
    dict(type='Kaiming'), dict(type='Pretrained'), 'x.pth', [dict(type='Pretrained')]])
def test_other_init_cfgs_get_a_sentence(init_cfg):
    with pytest.raises(ValueError, match='init_cfg'):
        MambaVision(NANO, init_cfg=init_cfg).init_weights()


IN_GROUP = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
if 'group' in sys.argv:
    dist.init_process_group('gloo', timeout=timedelta(seconds=60))
from mmmambavision.checkpoints import files
rank = int(__import__('os').environ['RANK'])
if rank == 0 and 'broken' in sys.argv:
    def refuse(url, path):
        raise OSError('no route')
    torch.hub.download_url_to_file = refuse
try:
    print('got', files.load_checkpoint(sys.argv[1])['a'], flush=True)
except Exception as error:
    print('ended', error, flush=True)
"""


def in_two_processes(url, tmp_path, *arguments):
    environment = {**os.environ, 'TORCH_HOME': str(tmp_path / 'torch'), 'MASTER_ADDR': '127.0.0.1', 'WORLD_SIZE': '2',
                   'MASTER_PORT': str(free_port())}
    running = [subprocess.Popen([sys.executable, '-c', IN_GROUP, url, *arguments], text=True, stdout=subprocess.PIPE,
                                env={**environment, 'RANK': str(rank)}) for rank in range(2)]
    return [[line for line in process.communicate(timeout=120)[0].splitlines() if line.startswith(('got', 'ended'))]
            for process in running]


@pytest.mark.slow
@pytest.mark.parametrize('group', ['group', 'alone'])
def test_every_process_ends_where_none_can_download(group, server, tmp_path):
    """With the same sentence, whether or not the process group exists already."""
    first, second = in_two_processes(f'{server}/nothing.pth', tmp_path, group)
    assert first == second and re.search(facts('ended', f'{server}/nothing.pth', '404'), *first)


@pytest.mark.slow
def test_every_process_ends_where_the_first_cannot_download(server, tmp_path):
    torch.save(dict(a=1), tmp_path / 'x.pth')
    first, second = in_two_processes(f'{server}/x.pth', tmp_path, 'group', 'broken')
    assert first == second and len(first) == 1  # whoever came first
    assert first == ['got 1'] or re.search(facts('ended', f'{server}/x.pth', 'no route'), *first)


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that is broken in the way that the path names."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path == '/garbage.pth':
            return self.wfile.write(b'garbage\r\n\r\n')
        self.send_response(200)
        self.send_header('Content-Length', '1000')
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(b'x' * 500)


@pytest.mark.parametrize('path, reason', [
    pytest.param('garbage.pth', 'BadStatusLine', marks=pytest.mark.slow),
    ('short.pth', '500 of 1000')])
def test_broken_servers(path, reason, tmp_path, monkeypatch):
    """Every process hears of it, and no half of a file stays where the next run would take it for the whole."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answers) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{httpd.server_port}/{path}'
        first, second = in_two_processes(url, tmp_path, 'group')
        httpd.shutdown()
    assert first == second and len(first) == 1
    assert re.search(facts('ended', url, reason), *first)
    assert not [f for f in (tmp_path / 'torch').rglob('*') if f.is_file() and f.suffix != '.lock']


@pytest.mark.parametrize('name', ['hf://own er/re po', 'http://127.0.0.1:abc/x.pth'])
def test_names_that_are_none(name, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(UnreachableError, match=name):
        fetch(name)


@pytest.mark.slow
@pytest.mark.parametrize('group', ['group', 'alone'])
def test_one_process_downloads(group, server, tmp_path, requests):
    torch.save(dict(a=1), tmp_path / 'x.pth')
    assert in_two_processes(f'{server}/x.pth', tmp_path, group) == [['got 1'], ['got 1']]
    assert requests == ['/x.pth']
