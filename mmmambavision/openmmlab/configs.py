"""Configs: read with the settings of a command, and changed."""
import logging
import os
from inspect import signature
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.runner import Runner

from .. import recipes
from ..errors import UserError

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


def datasets_of(dataset, key):
    """(key, settings) of the data sets behind those that wrap them, RepeatDataset, ConcatDataset and their like."""
    if 'datasets' in dataset:
        for index, part in enumerate(dataset['datasets']):
            yield from datasets_of(part, f'{key}.datasets.{index}')
    elif 'dataset' in dataset:
        yield from datasets_of(dataset['dataset'], f'{key}.dataset')
    else:
        yield key, dataset


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
