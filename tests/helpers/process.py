"""Run commands in this process by their `main`, or in separate processes."""
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmmambavision.terminal import run

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'


class Benchmarking:
    """Import finder for the package tools/benchmarks/benchmarking, without this folder on `sys.path`."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'benchmarking':
            folder = TOOLS / 'benchmarks' / 'benchmarking'
            return importlib.util.spec_from_file_location(
                name, folder / '__init__.py', submodule_search_locations=[str(folder)])


sys.meta_path.append(Benchmarking)


def load_tool(name):
    """The script tools/{name}.py as a module."""
    name = f'tools/{name}'
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / f'{name}.py')
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def error_of(tool, *arguments):
    """Run a tool in this process and return its error message."""
    with pytest.raises(SystemExit) as stop:
        run(lambda: load_tool(tool).main([*map(str, arguments)]))
    assert stop.value.code not in (0, None)
    return str(stop.value.code)


def run_tool(script, *arguments, status=0, cwd=None, **environment):
    """Run a tool in a separate process and return its output. Fails unless it exits with `status`."""
    done = subprocess.run(
        [sys.executable, str(TOOLS / script), *map(str, arguments)], cwd=cwd or ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    assert done.returncode == status, done.stdout
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def command(config, work_dir, *options):
    return [sys.executable, str(TOOLS / 'train.py'), str(config), '--work-dir', str(work_dir), *map(str, options)]


def _obey_the_keyboard():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which is ignored where the tests run in a script's background


class Process:
    """A command in a separate process, with its output in a file."""

    def __init__(self, arguments, log, **environment):
        self.log = log
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))  # configs name tests.helpers
        with open(log, 'w') as file:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, stdout=file, stderr=file, start_new_session=True, preexec_fn=_obey_the_keyboard,
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path, **environment})
        self.pid = self.process.pid

    def output(self):
        return self.log.read_text()

    def wait_for(self, pattern, seconds=90):
        """Wait until the output matches a regular expression. Fails if the process ends first."""
        deadline = time.time() + seconds
        while not (found := re.search(pattern, self.output())):
            assert self.process.poll() is None and time.time() < deadline, self.output()
            time.sleep(.05)
        return found

    def ends(self, status=1, seconds=60):
        """Wait for the end with this exit status, and return the output."""
        assert self.process.wait(seconds) == status, self.output()
        return self.output()

    def children(self):
        path = f'/proc/{self.pid}/task/{self.pid}/children'
        with open(path) as file:
            return [int(pid) for pid in file.read().split()]


def train(config, work_dir, *options, status=0):
    """Run a training to its end and return its output."""
    log = work_dir.parent / f'{work_dir.name}.log'
    return Process(command(config, work_dir, *options), log).ends(status, 120)


def ranks(config, work_dir, *options):
    """Start two processes of one training, without torchrun."""
    port = str(free_port())
    return [Process(command(config, work_dir, *options, '--launcher', 'pytorch'), work_dir.parent / f'rank{rank}.log',
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
            for rank in range(2)]
