"""Arguments that several commands share, and their conversion after parsing."""
import argparse

from ..errors import UserError


def add_run(parser):
    """The arguments of mmdet's own train.py and test.py."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/CONFIG')
    add_settings(parser, ', e.g. train_dataloader.batch_size=4')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='launcher of the processes; for torchrun use pytorch')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_settings(parser, example=''):
    parser.add_argument('--cfg-options', nargs='+', action='extend', type=setting, default=[], metavar='KEY=VALUE',
                        help=f'override settings of the config{example}')


def setting(text):
    """argparse type for KEY=VALUE."""
    if '=' not in text:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    return text


def settings_of(texts):
    """Convert KEY=VALUE texts to a dict with mmengine's parser.

    Raises:
        UserError: a value is invalid.
    """
    from mmengine.config import DictAction
    parser = argparse.ArgumentParser()
    parser.add_argument('settings', nargs='*', action=DictAction)
    try:
        return parser.parse_args(['--', *texts]).settings or {}
    except AssertionError as error:  # for unbalanced brackets
        raise UserError(f'--cfg-options: {error}') from None


def add_device(parser):
    parser.add_argument('--device', help='for example cpu, cuda or cuda:1; default: a GPU if available')


def device_of(name):
    """The device with this name. For None: a GPU if available, otherwise the CPU.

    Raises:
        UserError: the device is not available.
    """
    import torch
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'--device {name}: {str(error).splitlines()[0]}') from None
    return name
