"""Arguments that several commands have, and what becomes of them after parsing."""
import argparse

from ..errors import UserError


def add_run(parser):
    """The arguments of mmdet's own train.py and test.py."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/CONFIG')
    add_settings(parser, ', e.g. train_dataloader.batch_size=4')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='how several processes were started; torchrun is pytorch')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_settings(parser, example=''):
    parser.add_argument('--cfg-options', nargs='+', action='extend', type=setting, default=[], metavar='KEY=VALUE',
                        help=f'settings that replace those of the config{example}')


def setting(text):
    """KEY=VALUE, a type for argparse."""
    if '=' not in text:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    return text


def settings_of(texts):
    """KEY=VALUE texts as a dict, values read as mmengine's own commands read them.

    Raises:
        UserError: a value cannot be read.
    """
    from mmengine.config import DictAction
    parser = argparse.ArgumentParser()
    parser.add_argument('settings', nargs='*', action=DictAction)
    try:
        return parser.parse_args(['--', *texts]).settings or {}
    except AssertionError as error:  # of brackets that are not closed
        raise UserError(f'--cfg-options: {error}') from None


def add_device(parser):
    parser.add_argument('--device', help='such as cpu, cuda or cuda:1; default: a GPU if there is one')


def device_of(name):
    """The device to run on: the one named or, for None, a GPU if there is one.

    Raises:
        UserError: it is not there.
    """
    import torch
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'--device {name}: {str(error).splitlines()[0]}') from None
    return name
