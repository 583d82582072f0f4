"""Train: load a config, check it, fit it to the data and the machine, and run mmengine's Runner."""
import copy
import logging
from functools import partial
from pathlib import Path

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ...checkpoints.files import load_checkpoint
from ...errors import UnreachableError, UserError
from ...openmmlab import own_data
from ...openmmlab.configs import add_hook, load_config
from ...openmmlab.datasets import check_classes, check_data
from ...openmmlab.machine import fit_to_machine, process_rank, use_amp, world_size
from ...openmmlab.training import explained, hold, images, make_safe, use_shards
from ...openmmlab.training.checkpoints import checkpoints, latest_checkpoint
from ..arguments import settings_of

WEIGHTS_KEYS = {'init_cfg', 'pretrained'}  # keys of a backbone; released configs use `pretrained`


def train(args):
    """Train with the arguments of cli/train.py."""
    cfg = load_config(args.config, settings_of(args.cfg_options), args.work_dir, args.launcher, args.local_rank)
    if process_rank(cfg) == 0:
        hold(cfg.work_dir)
    apply_options(cfg, args)
    warnings, changes = use_own_data(cfg, args) if has_own_data(args) else ([], [])
    fit_to_machine(cfg)
    check_data(cfg, 'train_dataloader', 'val_dataloader')
    check_batch(cfg)
    hook = None
    if args.weights and not cfg.get('resume'):
        hook, taken = own_data.start_from(cfg, args.weights)
        changes += taken
    elif args.weights:
        changes.append(f'--weights {args.weights} is ignored, because the training resumes from {cfg.load_from}')
    check_weights(cfg)
    make_safe(cfg)
    add_hook(cfg, 'CheckClasses')
    with explained(cfg.work_dir):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if cfg.get('resume'):  # by default, mmengine also resumes with weights that do not fit
        runner.load_checkpoint = partial(runner.load_checkpoint, strict=True)
    for level, sentences in ((logging.INFO, changes), (logging.WARNING, warnings)):
        for sentence in sentences:
            runner.logger.log(level, sentence)
    if hook:
        runner.register_hook(hook)
    try:
        with explained(cfg.work_dir):
            runner.train()
    except ValueError as error:
        if not isinstance(error, UserError):  # for example from NumPy, if a data set has no image left
            check_classes(cfg, 'train_dataloader', 'val_dataloader')
        raise


def apply_options(cfg, args):
    if args.from_scratch and args.weights:
        raise UserError('--from-scratch (random weights for the backbone) and --weights (weights of a file) exclude '
                        'each other. Remove one of them')
    if args.amp:
        use_amp(cfg)
    if args.fsdp:
        use_shards(cfg)
    if args.skip_broken_images:
        cfg.skip_broken_images = True
    if args.auto_scale_lr or has_own_data(args):
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError('--auto-scale-lr (enabled by --data) needs auto_scale_lr = dict(base_batch_size=...) in '
                            'the config. It is the total batch size for which the learning rate was chosen')
        cfg.auto_scale_lr.enable = True
    resume = args.resume or (cfg.get('resume') and (cfg.get('load_from') or 'auto'))
    if resume == 'auto':
        resume = latest_checkpoint(cfg.work_dir)
        cfg.resume = False  # mmengine's own search would also accept an incomplete checkpoint
    if resume:
        cfg.resume, cfg.load_from = True, resume
    if (resume or args.from_scratch) and cfg.get('model', {}).get('backbone'):
        cfg.model.backbone.update(dict.fromkeys(WEIGHTS_KEYS & cfg.model.backbone.keys()))  # not needed
    if not args.resume and not resume and checkpoints(cfg.work_dir):
        raise UserError(f'{cfg.work_dir} has checkpoints of an earlier run. Resume it with --resume, or start a new '
                        'run with --work-dir NEW_FOLDER')


def check_weights(cfg):
    """Check that the initial weights can be loaded, before the training starts.

    Raises:
        UserError: the weights cannot be loaded. The message lists the alternatives.
    """
    if cfg.get('load_from'):
        load_checkpoint(cfg.load_from)
    backbone = cfg.get('model', {}).get('backbone', {})
    init_cfg = backbone.get('init_cfg') or []
    pretrained = [part for part in (init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg])
                  if part.get('type') == 'Pretrained']
    key, source = 'init_cfg.checkpoint', pretrained[0].get('checkpoint') if pretrained else None
    if backbone.get('type') == 'MM_mamba_vision':
        key, source = 'pretrained', backbone.get('pretrained')
    if source:
        try:
            load_checkpoint(source)
        except UnreachableError as error:
            raise UserError(f"{error}. Give the backbone's weights with --cfg-options model.backbone.{key}=FILE, or "
                            'train with --from-scratch, which does not reach the published results') from None


def check_batch(cfg):
    """Check that no batch norm of a segmentor trains on a 1x1 map of a single image.

    Raises:
        UserError: a batch norm would train on a single value.
    """
    heads = [cfg.model.get('decode_head'), cfg.model.get('auxiliary_head')]
    heads = [head for entry in heads if entry for head in (entry if isinstance(entry, (list, tuple)) else [entry])]
    pooled = next((head for head in heads if 1 in (head.get('pool_scales') or ())), None)
    if not pooled or cfg.train_dataloader.get('batch_size') != 1:
        return
    together = world_size(cfg) if (pooled.get('norm_cfg') or {}).get('type') == 'SyncBN' else 1
    if together == 1 and 'BN' in (pooled.get('norm_cfg') or {}).get('type', ''):
        raise UserError(f'{pooled.type} pools the map to 1x1, where a batch norm cannot train on one image. Train on '
                        'several GPUs (torchrun ... --launcher pytorch), or add --auto-scale-lr --cfg-options '
                        'train_dataloader.batch_size=2 or more')


def has_own_data(args):
    return any((args.data, args.train_json, args.val_json, args.images, args.holdout is not None))


def use_own_data(cfg, args):
    """Fit the config to the user's data, print a table and draw samples.

    Returns:
        Warnings about the data, and changes of the config, as sentences.
    """
    first = process_rank(cfg) == 0
    warnings, changes = own_data.prepare(
        cfg, args.data, dict(train=args.train_json, val=args.val_json), args.images, quiet=not first,
        holdout=args.holdout)
    if first:
        picture = Path(cfg.work_dir, 'samples.jpg')
        safe = copy.deepcopy(cfg)  # a temporary copy
        images.put_into(safe)
        with explained(cfg.work_dir):
            own_data.draw_samples(safe, picture)
        changes.append(f'samples of the training data, as the network sees them: {picture}')
    lr, base = cfg.optim_wrapper.optimizer.lr, cfg.auto_scale_lr.base_batch_size
    batch = cfg.train_dataloader.batch_size * world_size(cfg)
    return warnings, [*changes, f'learning rate: {lr:g} for a batch size of {base}, so {lr * batch / base:g} for the '
                                f'batch size of {batch} here']
