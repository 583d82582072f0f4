"""Configs that mmdet and mmseg ship run on this project's operators."""
import json
from importlib import import_module

import pytest

from ...helpers.process import error_of, load_tool

work = import_module('benchmarking.stock_configs')


def test_names():
    """All configs of both packages, and one ResNet-50 config for each family."""
    assert len(work.configs_of('mmdet', False)) > 800 and len(work.configs_of('mmseg', False)) > 650
    families = work.configs_of('mmdet', True)
    assert len({name.partition('/')[0] for name in families}) == len(families) > 50


def test_a_config_that_works_and_one_that_does_not(tmp_path):
    result = work.attempt('mmseg', 'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', False, 0, (64, 96))
    assert result['status'] == 'works' and result['losses'].keys() == {'loss', 'decode.loss_ce', 'aux.loss_ce'}
    assert min(result['losses'].values()) > 0
    broken = work.attempt('mmseg', 'no_such_config.py', False, 0, (64, 96))
    assert broken['status'] == 'fails' and 'no_such_config' in broken['reason']


def test_configs_of_one_model_share_a_run():
    model = work.hash_of_model('mmseg', 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    assert model == work.hash_of_model('mmseg', 'pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py')
    assert model != work.hash_of_model('mmseg', 'pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py')
    assert model != work.hash_of_model('mmseg', 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py')


@pytest.mark.full
@pytest.mark.parametrize('package, name', [
    ('mmdet', 'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py'),
    ('mmdet', 'guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py'),
    ('mmseg', 'psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py')])
def test_operators_of_a_config(package, name):
    size = (64, 96) if package == 'mmdet' else (97, 97)
    result = work.attempt(package, name, False, 0, size)
    assert result['status'] == 'works', result


@pytest.mark.full
def test_an_interrupted_run_goes_on(tmp_path, capsys):
    """Known results are not computed again, and a config that takes too long is reported."""
    name = 'fcn/fcn_r18b-d8_4xb2-80k_cityscapes-512x1024.py'
    known = dict(package='mmseg', config=name, status='fails', reason='known | from before')
    (tmp_path / 'results.jsonl').write_text(json.dumps(known) + '\n')
    arguments = ['--out', str(tmp_path), '--package', 'mmseg', '--limit', '1', '--only']
    load_tool('benchmarks/stock_configs').main([*arguments, 'fcn/fcn_r18b?-d8_4xb2-80k_cityscapes-512'])
    assert 'known' in capsys.readouterr().out
    first, second = (json.loads(line) for line in (tmp_path / 'results.jsonl').read_text().splitlines())
    assert first == known and second['config'] == name.replace('r18b', 'r18') and '1 s' in second['reason']


def test_nothing_that_matches(tmp_path):
    assert 'nothing-like-it' in error_of('benchmarks/stock_configs', '--out', tmp_path, '--only',
                                         'nothing-like-it')


@pytest.mark.full
def test_thirty_configs(tmp_path):
    load_tool('benchmarks/stock_configs').main(['--out', str(tmp_path), '--sample', '30', '--seed', '7'])
    records = [json.loads(line) for line in (tmp_path / 'results.jsonl').read_text().splitlines()]
    assert len(records) == 30
    bad = [record for record in records if record['status'] in ('fails', 'needs compiled mmcv')]
    assert bad == []
