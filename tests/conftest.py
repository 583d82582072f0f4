import logging
import os
import sys
from functools import lru_cache
from importlib.util import find_spec

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # before anything imports triton: its kernels then run on the CPU

if find_spec('mmengine'):
    import mmmambavision.openmmlab  # noqa: F401  (before anything imports mmcv.ops, whose operators it may have to provide)

from .helpers.process import run_tool


@pytest.fixture(autouse=True, scope='session')
def paths_of_stock_configs_are_found_once():
    """For each `_base_ = 'mmdet::...'` mmengine reads a hundred metafiles again, a third of a second."""
    from mmengine.config import Config
    find = Config._get_cfg_path
    found = lru_cache(lambda path, filename: find(path, filename))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, '_get_cfg_path', staticmethod(
            lambda path, filename: (found if '::' in path else find)(path, filename)))
        yield


@pytest.fixture(autouse=True)
def visualizers_end_with_their_test():
    """mmengine's runners share one visualizer per process, and it writes to the first one's deleted folder."""
    yield
    if visualization := sys.modules.get('mmengine.visualization'):
        base = visualization.Visualizer
        for kind in (base, *base.__subclasses__()):
            kind._instance_dict.clear()


@pytest.fixture(autouse=True)
def the_stack_of_signal_handlers_is_kept():
    """OpenVINO changes it: see `kept_signal_stack`."""
    from mmmambavision.export.openvino_session import kept_signal_stack
    with kept_signal_stack():
        yield


@pytest.fixture(autouse=True)
def all_levels_are_captured():
    """Packages that a test imports, such as nncf, raise the level of pytest's handlers for all later tests."""
    for handler in logging.root.handlers:
        if type(handler).__name__ == 'LogCaptureHandler':
            handler.setLevel(logging.NOTSET)


@pytest.fixture
def logged(monkeypatch):
    """Messages that mmengine's logger was given, as a list that grows."""
    from mmengine.logging import MMLogger
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [handler])
    return messages


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """Folder with a few drawn images."""
    out = tmp_path_factory.mktemp('data') / 'shapes'
    run_tool('demo/make_shapes_dataset.py', out, '--train', 16, '--val', 6, '--size', 96)
    return out
