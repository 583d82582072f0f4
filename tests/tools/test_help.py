"""Commands answer --help and mistakes at once: what takes seconds is imported after their arguments are read."""
import subprocess
import sys

import pytest

from ..helpers.process import TOOLS

# Each is hidden, so that a process that imports one of them before it has read its arguments ends in an error.
HEAVY = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm', 'numba', 'triton',
         'matplotlib', 'onnx', 'transformers')
LIGHT = ('numpy', 'cv2', 'onnxruntime', 'pycocotools', 'rich', 'tqdm', 'yaml')  # a quarter of a second, all together
# What these draw with: each is a script of its own, the first for machines that have nothing else.
SCRIPTS = ('predict_onnx', 'demo/crop_objects', 'demo/demo', 'demo/make_shapes_dataset')
MISTAKES = {
    'train': ([], ['x.py', '--launcher', 'none of these'], ['x.py', '--cfg-options', 'a=1', 'b']),
    'test': (['x.py'], ['x.py', 'x.pth', '--out', 'x.txt']),
    'predict': (['--checkpoint', 'x.pth'], ['a.png', '--checkpoint', 'x', '--config', 'x.py', '--threshold', '2']),
    'export': (['x.py'], ['x.py', '--out', 'x.onnx', '--int8', 'images', '--half'],
               ['x.py', '--out', 'x.onnx', '--part', 'head'], ['x.py', '--out', 'x.onnx', '--opset', '1']),
    'visualize': ([], ['attention', '--config', 'x.py', 'a.png'], ['erf', '--model', 'x', 'a.png', '--level', '4'],
                  ['scan', '--model', 'x', 'a.png', '--point', 'middle']),
    'memory': ([], ['x.py', '--batch', '0'], ['x.py', '--size', '8', '800']),
    'convert_checkpoint': (['x.pth'], ['x.pth', 'x.txt']),
    'plot_curves': ([],),
    'predict_onnx': (['x.onnx'],),
    'demo/demo': (['a.py', 'b.py'],),
    'demo/make_shapes_dataset': (['data', '--size', '5'],),
    'demo/crop_objects': (['data'],),
    'benchmarks/ablation': ([], ['--study', 'colours'], ['--study', 'mixer', '--seeds', '0']),
    'benchmarks/attention': (['--dtype', 'float64'],),
    'benchmarks/check_gpu': (['x'],),
    'benchmarks/complexity': ([], ['no.py']),
    'benchmarks/depthwise': (['--backends', 'cudnn'], ['--shapes', 'round']),
    'benchmarks/exported': ([], ['x.py'], ['x.py', 'x.onnx']),
    'benchmarks/mmcv_ops': (['--rounds', 'many'],),
    'benchmarks/peers_trained': (['--task', 'tracking'], ['--seeds', '0']),
    'benchmarks/scan': (['--backends', 'fastest'], ['--shapes', 'round']),
    'benchmarks/scan_static': (['--targets', '70'], ['--dtype', 'float64']),
    'benchmarks/speed': ([], ['swin-x'], ['swin-t', '--size', '800'], ['swin-t', '--fuse', '--train']),
    'benchmarks/stock_configs': ([], ['--out', 'x', '--sample', '0']),
    'benchmarks/throughput': (['--batch', '0'], ['--csv', 'no_folder/x.csv']),
    'benchmarks/training_memory': ([], ['x.py', '--steps', '0'], ['x.py', '--size', '8', '800']),
}
RUN = '''
import runpy, sys
hidden, script, *sys.argv[1:] = sys.argv[1:]
sys.modules.update(dict.fromkeys(hidden.split()))
sys.argv[0], sys.path[0] = script, script.rpartition('/')[0]
runpy.run_path(script, run_name='__main__')
'''


def answer(command, *arguments):
    """Exit status and what a command says, with what is heavy hidden from it."""
    hidden = HEAVY if command in SCRIPTS else HEAVY + LIGHT
    done = subprocess.run([sys.executable, '-c', RUN, ' '.join(hidden), str(TOOLS / f'{command}.py'), *arguments],
                          text=True, capture_output=True)
    assert 'Traceback' not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_every_command_is_tested():
    commands = {str(path.relative_to(TOOLS).with_suffix('')) for path in TOOLS.rglob('*.py')
                if "if __name__ == '__main__':" in path.read_text()}
    assert commands == MISTAKES.keys()


@pytest.mark.parametrize('command', MISTAKES)
def test_help_and_mistakes(command):
    status, said = answer(command, '--help')
    assert status == 0 and said.startswith('usage: ')
    for arguments in (['--no-such-option'], *MISTAKES[command]):
        status, said = answer(command, *arguments)
        assert status in (1, 2) and 'error: ' in said, arguments
