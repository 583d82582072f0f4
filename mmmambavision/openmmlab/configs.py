"""Load and change configs."""
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
        'skip_broken_images', 'strategy'}  # keys that have an effect; all other keys are helper variables


def load_config(path, settings=None, work_dir=None, launcher='none', local_rank=0):
    """Load a config file and override settings.

    Args:
        path: the file, or the name of a recipe.
        settings: new values by dotted key.
        work_dir: folder for logs and checkpoints; None for the config's work_dir, or work_dirs/NAME if it has none.
        launcher: launcher of the processes: 'none', 'pytorch', 'slurm' or 'mpi'.
        local_rank: rank of this process on its machine. The environment variable LOCAL_RANK has priority.

    Raises:
        UserError: the file cannot be found or read, or the settings do not fit it.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    path = recipes.find(path)
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, NameError, TypeError, KeyError, OSError, ImportError) as error:
        message = str(error).split(', the current sys.path')[0]  # mmengine appends all folders of sys.path
        raise UserError(f'{path} cannot be read as a config: {message}') from None
    if settings:
        try:
            cfg.merge_from_dict(settings)
        except (TypeError, KeyError) as error:  # for example arch.dim if arch is the name of a preset
            raise UserError(f'the settings do not fit {path}: {error}') from None
        if unread := sorted({key.split('.')[0] for key in settings} - READ):
            print_log(f"these settings have no effect in {path}: {', '.join(unread)}. They are helper variables of the "
                      'file, so set the final key, for example train_cfg.max_epochs',
                      level=logging.WARNING)
    cfg.launcher = launcher
    if work_dir:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(path).stem))
    return cfg


def datasets_of(dataset, key):
    """Yield (key, settings) of the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if 'datasets' in dataset:
        for index, part in enumerate(dataset['datasets']):
            yield from datasets_of(part, f'{key}.datasets.{index}')
    elif 'dataset' in dataset:
        yield from datasets_of(dataset['dataset'], f'{key}.dataset')
    else:
        yield key, dataset


def first_dataset(loader):
    """Settings of the first data set of a data loader's config, without wrappers."""
    return next(datasets_of(loader['dataset'], ''))[1]


def replace_type(node, old, new):
    """Replace `type=old` by `type=new` everywhere in a nested config. Returns the number of replacements."""
    if isinstance(node, (dict, ConfigDict)):
        count = sum(replace_type(value, old, new) for value in node.values())
        if node.get('type') == old:
            node['type'] = new
            count += 1
        return count
    return sum(replace_type(value, old, new) for value in node) if isinstance(node, (list, tuple)) else 0


def add_hook(cfg, name):
    """Add a hook to a config, unless the config has it already."""
    hooks = cfg.get('custom_hooks') or []
    if not any(isinstance(hook, dict) and str(hook.get('type')).rpartition('.')[2] == name for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type=name)]
