"""A config that is read, checked and fitted to the machine: what the commands that run configs share."""
import logging
import os
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.runner import Runner

from .. import recipes
from ..errors import UserError
from .amp import leave_amp

READ = {*signature(Runner).parameters, 'auto_scale_lr', 'tta_model', 'tta_pipeline', 'runner_type', 'custom_imports',
        'model_wrapper_cfg', 'find_unused_parameters', 'compile', 'activation_checkpointing', 'efficient_conv_bn_eval',
        'skip_broken_images', 'strategy'}  # what is read of a config; the rest is variables of its files


def load_config(path, settings=None, work_dir=None, launcher='none', local_rank=0):
    """A config file with other settings in it.

    Args:
        path: the file, or the name of a recipe.
        settings: values that replace those of the file, by their dotted keys.
        work_dir: folder for logs and checkpoints; None for the config's own or, where it has none, work_dirs/NAME.
        launcher: how several processes were started: 'none', 'pytorch', 'slurm' or 'mpi'.
        local_rank: number of this process on its machine, unless the environment variable LOCAL_RANK has it.

    Raises:
        UserError: the file cannot be found or read, or the settings do not fit it.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    path = recipes.find(path)
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, NameError, TypeError, KeyError, OSError, ImportError) as error:
        message = str(error).split(', the current sys.path')[0]  # which mmengine adds, a line for each folder
        raise UserError(f'{path} cannot be read as a config: {message}') from None
    if settings:
        try:
            cfg.merge_from_dict(settings)
        except (TypeError, KeyError) as error:  # such as a key of arch where arch is the name of a preset
            raise UserError(f'the settings do not fit {path}: {error}') from None
        if unread := sorted({key.split('.')[0] for key in settings} - READ):
            print_log(f"the settings have no effect in {path}: {', '.join(unread)}. Where a config's file uses such a "
                      'variable its value is there already: set that key, such as train_cfg.max_epochs',
                      level=logging.WARNING)
    cfg.launcher = launcher
    if work_dir:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(path).stem))
    return cfg


def check_data(cfg, *loaders):
    """See that the files of the data loaders named, such as train_dataloader, are there, and read with as many channels
    as the backbone takes.

    Raises:
        UserError: naming the path, the keys that set it and where to read about the data.
    """
    model = cfg.get('model') or {}
    channels = (model.get('backbone') or {}).get('in_channels', 3)
    mean = (model.get('data_preprocessor') or {}).get('mean')
    if mean is not None and len(mean) not in (1, 3):
        raise UserError(f'model.data_preprocessor.mean has {len(mean)} values, and mmengine subtracts one or three: '
                        'leave out mean and std, and normalise images of other channels in the pipeline')
    for key, dataset in (found for loader in loaders
                         for found in datasets_of((cfg.get(loader) or {}).get('dataset', {}), f'{loader}.dataset')):
        if str(dataset.get('type')).startswith('LVIS') and not find_spec('lvis'):
            raise UserError(f'{dataset.type} needs the package lvis, which is not installed: pip install lvis')
        grey = any(str(step.get('color_type', '')).startswith('gray') for step in dataset.get('pipeline', []))
        if grey and channels != 1:
            raise UserError(f"{key}.pipeline reads images with one channel (color_type='grayscale'), the backbone "
                            f'takes {channels}: leave color_type out, and grey images are read with theirs three '
                            'times, or set model.backbone.in_channels=1')
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
        print_log('no GPU: training in float32 instead of mixed precision; bfloat16 has to be asked for')
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
