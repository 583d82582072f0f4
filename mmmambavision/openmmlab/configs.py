"""A config from the command line, checked and fitted to the machine: what the tools that run configs share."""
import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import print_log

from ..errors import UserError
from .amp import leave_amp


def make_parser(description):
    """Parser with the arguments of mmdet's own train.py and test.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/CONFIG')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings that replace those of the config, e.g. train_dataloader.batch_size=4')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='how several processes were started; torchrun is pytorch')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args):
    """The config file with the command line's settings in it.

    Raises:
        UserError: the file cannot be found or read.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not Path(args.config).is_file():
        raise UserError(f'config not found: {args.config}')
    try:
        cfg = Config.fromfile(args.config)
    except (SyntaxError, NameError, TypeError, KeyError, OSError, ImportError) as error:
        message = str(error).split(', the current sys.path')[0]  # which mmengine adds, a line for each folder
        raise UserError(f'{args.config} cannot be read as a config: {message}') from None
    if args.cfg_options:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (TypeError, KeyError) as error:  # such as a key of arch where arch is the name of a preset
            raise UserError(f'--cfg-options do not fit {args.config}: {error}') from None
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def check_data(cfg, *loaders):
    """See that the files of the data loaders named, such as train_dataloader, are there, and read with three channels.

    Raises:
        UserError: naming the path, the keys that set it and where to read about the data.
    """
    for key, dataset in (found for loader in loaders
                         for found in datasets_of((cfg.get(loader) or {}).get('dataset', {}), f'{loader}.dataset')):
        if str(dataset.get('type')).startswith('LVIS') and not find_spec('lvis'):
            raise UserError(f'{dataset.type} needs the package lvis, which is not installed: pip install lvis')
        if any(str(step.get('color_type', '')).startswith('gray') for step in dataset.get('pipeline', [])):
            raise UserError(f"{key}.pipeline reads images with one channel (color_type='grayscale'), the backbone "
                            'takes three: leave color_type out, and grey images are read with theirs three times')
        prefixes = dataset.get('data_prefix') or {}  # mmpretrain's data sets have one of images alone
        prefixes = {'': prefixes} if isinstance(prefixes, str) else prefixes
        files = {'ann_file': dataset.get('ann_file') or dataset.get('split'),
                 **{f'data_prefix.{name}'.strip('.'): prefix for name, prefix in prefixes.items()}}
        for name, file in files.items():
            path = Path(dataset.get('data_root') or '', file or '')
            if file and '://' not in str(path) and not path.exists():
                raise UserError(f'data set not found: {path} does not exist; it is set by {key}.data_root and '
                                f'{key}.{name}. docs/reproduce.md says how to get the data and where it goes')


def datasets_of(dataset, key):
    """(key, settings) of the data sets behind those that wrap them, RepeatDataset, ConcatDataset and their like."""
    if 'datasets' in dataset:
        for index, part in enumerate(dataset['datasets']):
            yield from datasets_of(part, f'{key}.datasets.{index}')
    elif 'dataset' in dataset:
        yield from datasets_of(dataset['dataset'], f'{key}.dataset')
    else:
        yield key, dataset


def fit_to_machine(cfg):
    """Replace what needs a GPU where there is none: mixed precision by float32 (bfloat16 has to be asked for: see
    amp.py), SyncBN by BN, NCCL by gloo."""
    if torch.cuda.is_available():
        return
    if cfg.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper':
        leave_amp(cfg, 'OptimWrapper')
        print_log('no GPU: training in float32 instead of mixed precision; --amp trains in bfloat16')
    if replace_type(cfg.get('model', {}), 'SyncBN', 'BN'):
        print_log('no GPU: BN instead of SyncBN')
    if cfg.get('launcher') == 'pytorch' and not torch.distributed.is_initialized():
        # mmengine would ask for a GPU, here and when it wraps the model; it uses what it finds made already.
        torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))


def world_size(cfg):
    """Number of processes that train together, before mmengine starts their group."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return _from_launcher(cfg, 1, pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')


def process_rank(cfg):
    """Number of this process among them, from 0 on, before mmengine starts their group."""
    return _from_launcher(cfg, 0, pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


def _from_launcher(cfg, alone, **variables):
    variable = variables.get(cfg.launcher)
    return int(os.environ.get(variable, alone)) if variable else alone


def replace_type(node, old, new):
    """Replace `type=old` by `type=new` everywhere in a nested config; returns how often."""
    if isinstance(node, (dict, ConfigDict)):
        count = sum(replace_type(value, old, new) for value in node.values())
        if node.get('type') == old:
            node['type'] = new
            count += 1
        return count
    return sum(replace_type(value, old, new) for value in node) if isinstance(node, (list, tuple)) else 0


def add_hook(cfg, name):
    """Add a hook to a config that does not name it."""
    hooks = cfg.get('custom_hooks') or []
    if not any(isinstance(hook, dict) and str(hook.get('type')).rpartition('.')[2] == name for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type=name)]
