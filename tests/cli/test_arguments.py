"""What becomes of arguments after parsing."""
import argparse

import pytest
import torch

from mmmambavision.cli.arguments import add_settings, device_of, settings_of
from mmmambavision.errors import UserError


def test_settings_are_read_as_by_mmengine():
    parser = argparse.ArgumentParser()
    add_settings(parser)
    assert settings_of(parser.parse_args([]).cfg_options) == {}
    texts = parser.parse_args(['--cfg-options', 'a.b=3', 'c=[(1,2),x]', '--cfg-options', 'd=None', 'e=x=y']).cfg_options
    assert settings_of(texts) == {'a.b': 3, 'c': [(1, 2), 'x'], 'd': None, 'e': 'x=y'}


def test_settings_that_are_none(capsys):
    parser = argparse.ArgumentParser()
    add_settings(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'a'])
    assert "argument --cfg-options: 'a' is not KEY=VALUE" in capsys.readouterr().err
    with pytest.raises(UserError, match='--cfg-options: Imbalanced brackets'):
        settings_of(['a=[1,2'])


def test_devices():
    assert device_of('cpu') == 'cpu'
    assert device_of(None) == ('cuda' if torch.cuda.is_available() else 'cpu')
    with pytest.raises(UserError, match='--device gpu: '):
        device_of('gpu')
