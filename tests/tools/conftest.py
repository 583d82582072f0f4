import os
import subprocess
import sys

import pytest

from ..conftest import ROOT


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """Folder with a few drawn images."""
    out = tmp_path_factory.mktemp('data') / 'shapes'
    run_tool('demo/make_shapes_dataset.py', out, '--train', 16, '--val', 6, '--size', 96)
    return out


def run_tool(script, *arguments, status=0, cwd=None, **environment):
    """Run a tool as a user would; returns what it printed. Fails unless it exits with `status`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / script), *map(str, arguments)], cwd=cwd or ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    assert done.returncode == status, done.stdout
    return done.stdout
