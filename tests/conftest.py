import importlib
import logging
import os
import socket
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # before anything imports triton: its kernels then run on the CPU

import mmmambavision  # noqa: E402, F401  (before anything imports mmcv.ops, whose operators it may have to provide)

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / 'data' / 'golden'
sys.path.insert(0, str(GOLDEN))  # seeded.py, the generator behind the golden outputs


def load_tool(name):
    """The script tools/{name}.py as a module, beside which it finds those that it imports."""
    script = ROOT / 'tools' / name
    if str(script.parent) not in sys.path:
        sys.path.insert(0, str(script.parent))
    return importlib.import_module(script.name)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture
def logged(monkeypatch):
    """Messages that mmengine's logger was given, as a list that grows."""
    from mmengine.logging import MMLogger
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [handler])
    return messages
