"""A training: the config is read, checked and fitted to data and machine, and given to mmengine's Runner."""
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
from ...openmmlab.training import explained, hold, images, make_safe
from ...openmmlab.training.checkpoints import checkpoints, latest_checkpoint
from ..arguments import settings_of

WEIGHTS_KEYS = {'init_cfg', 'pretrained'}  # of a backbone, the second in released configs


def train(args):
    """Train as the arguments of cli/train.py say."""
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
        changes.append(f'--weights {args.weights} is not read: the training goes on from {cfg.load_from}')
    check_weights(cfg)
    make_safe(cfg)
    add_hook(cfg, 'CheckClasses')
    with explained(cfg.work_dir):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if cfg.get('resume'):  # which mmengine does with whatever weights fit
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
        if not isinstance(error, UserError):  # such as numpy's of a data set that is left with no image
            check_classes(cfg, 'train_dataloader', 'val_dataloader')
        raise


def apply_options(cfg, args):
    if args.from_scratch and args.weights:
        raise UserError('--from-scratch starts the backbone from random weights, and --weights from those of a file: '
                        'leave out one of them')
    if args.amp:
        use_amp(cfg)
    if args.skip_broken_images:
        cfg.skip_broken_images = True
    if args.auto_scale_lr or has_own_data(args):
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError('--auto-scale-lr, which --data implies, needs auto_scale_lr = dict(base_batch_size=...) in '
                            'the config: the batch size over all processes that its learning rate is for')
        cfg.auto_scale_lr.enable = True
    resume = args.resume or (cfg.get('resume') and (cfg.get('load_from') or 'auto'))
    if resume == 'auto':
        resume = latest_checkpoint(cfg.work_dir)
        cfg.resume = False  # mmengine would look for itself, and take a checkpoint that is half written
    if resume:
        cfg.resume, cfg.load_from = True, resume
    if (resume or args.from_scratch) and cfg.get('model', {}).get('backbone'):
        cfg.model.backbone.update(dict.fromkeys(WEIGHTS_KEYS & cfg.model.backbone.keys()))  # nobody is to wait for them
    if not args.resume and not resume and checkpoints(cfg.work_dir):
        raise UserError(f'{cfg.work_dir} holds the checkpoints of an earlier run: --resume goes on with it, --work-dir '
                        'NEW_FOLDER leaves it alone')


def check_weights(cfg):
    """See that the weights to start from can be had, before days are spent on others.

    Raises:
        UserError: they cannot; says which ways there are.
    """
    if cfg.get('load_from'):
        load_checkpoint(cfg.load_from)
    backbone = cfg.get('model', {}).get('backbone', {})
    init_cfg = backbone.get('init_cfg') or {}
    key, source = 'init_cfg.checkpoint', init_cfg.get('checkpoint') if init_cfg.get('type') == 'Pretrained' else None
    if backbone.get('type') == 'MM_mamba_vision':
        key, source = 'pretrained', backbone.get('pretrained')
    if source:
        try:
            load_checkpoint(source)
        except UnreachableError as error:
            raise UserError(f"{error}. The backbone's weights by path: --cfg-options model.backbone.{key}=FILE; none, "
                            'which falls short of the published results: --from-scratch') from None


def check_batch(cfg):
    """See that no batch norm of the segmentor is to train on one image alone where its map is pooled to 1x1.

    Raises:
        UserError: one is; says what to do.
    """
    heads = [cfg.model.get('decode_head'), cfg.model.get('auxiliary_head')]
    heads = [head for entry in heads if entry for head in (entry if isinstance(entry, (list, tuple)) else [entry])]
    pooled = next((head for head in heads if 1 in (head.get('pool_scales') or ())), None)
    if not pooled or cfg.train_dataloader.get('batch_size') != 1:
        return
    together = world_size(cfg) if (pooled.get('norm_cfg') or {}).get('type') == 'SyncBN' else 1
    if together == 1 and 'BN' in (pooled.get('norm_cfg') or {}).get('type', ''):
        raise UserError(f'{pooled.type} pools the map to 1x1, where a batch norm cannot train on one image: this '
                        'recipe is for one image on each of several GPUs (torchrun ... --launcher pytorch). On one, '
                        'add --auto-scale-lr --cfg-options train_dataloader.batch_size=2, or as many as fit')


def has_own_data(args):
    return any((args.data, args.train_json, args.val_json, args.images, args.holdout is not None))


def use_own_data(cfg, args):
    """Fit the config to the data that the command line names, with a table and a picture of it.

    Returns:
        What is odd about the data, and what was changed, as sentences.
    """
    first = process_rank(cfg) == 0
    warnings, changes = own_data.prepare(
        cfg, args.data, dict(train=args.train_json, val=args.val_json), args.images, quiet=not first,
        holdout=args.holdout)
    if first:
        picture = Path(cfg.work_dir, 'samples.jpg')
        safe = copy.deepcopy(cfg)  # of which nothing stays
        images.put_into(safe)
        with explained(cfg.work_dir):
            own_data.draw_samples(safe, picture)
        changes.append(f'samples of the training data, as the network sees them: {picture}')
    lr, base = cfg.optim_wrapper.optimizer.lr, cfg.auto_scale_lr.base_batch_size
    batch = cfg.train_dataloader.batch_size * world_size(cfg)
    return warnings, [*changes, f'learning rate: {lr:g} for batches of {base}, so {lr * batch / base:g} for those of '
                                f'{batch} here']
