"""An evaluation: a checkpoint, or an exported file in its place, through mmengine's Runner."""
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ...checkpoints.files import fetch, split_key
from ...errors import UserError
from ...openmmlab import own_data
from ...openmmlab.configs import add_hook, load_config
from ...openmmlab.datasets import check_data
from ...openmmlab.machine import fit_to_machine
from ...openmmlab.models import warn_of_other_classes
from ...openmmlab.training import determinism
from ..arguments import settings_of


def evaluate(args):
    """Evaluate as the arguments of cli/test.py say."""
    cfg = load_config(args.config, settings_of(args.cfg_options), args.work_dir, args.launcher, args.local_rank)
    fit_to_machine(cfg)
    apply_options(cfg, args)
    check_data(cfg, 'test_dataloader')
    add_hook(cfg, 'CheckClasses')
    determinism.put_into(cfg)
    checkpoint, cfg.load_from = cfg.load_from, None
    if checkpoint:
        fetch(split_key(checkpoint)[0])  # an error before the data set is read
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if checkpoint:
        try:
            loaded = runner.load_checkpoint(checkpoint, strict=True)
        except UserError as error:
            raise UserError(f'{checkpoint}: {error}') from None
        warn_of_other_classes(loaded, getattr(runner.test_dataloader.dataset, 'metainfo', {}).get('classes'))
    runner.test()


def apply_options(cfg, args):
    if args.amp:
        cfg.test_cfg.fp16 = True  # autocast in mmengine's loop, in the type of the device
    if args.checkpoint.endswith('.onnx'):
        replace_model(cfg, args)
    else:
        cfg.load_from = args.checkpoint
    segments, classifies = (cfg.get('default_scope') == scope for scope in ('mmseg', 'mmpretrain'))
    if args.out:
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
        dump = dict(type='DumpResults' if segments or classifies else 'DumpDetResults', out_file_path=str(args.out))
        cfg.test_evaluator = [*evaluators, dump]
    if args.show_dir:
        if 'visualization' not in cfg.get('default_hooks', {}):
            raise UserError('--show-dir needs a visualization hook in default_hooks of the config')
        if classifies:
            if args.tta:
                raise UserError("--show-dir and --tta are two runs: mmpretrain's pictures are of unaugmented images")
            cfg.default_hooks.visualization.update(enable=True, interval=1, out_dir=args.show_dir)
            return
        cfg.default_hooks.visualization.draw = True
        if segments:
            cfg.visualizer.save_dir = args.show_dir
        else:
            cfg.default_hooks.visualization.test_out_dir = args.show_dir
    if args.tta:
        augment(cfg)


def replace_model(cfg, args):
    """The exported file in the place of the config's model."""
    if not Path(args.checkpoint).is_file():
        raise UserError(f'file not found: {args.checkpoint}')
    if args.tta or args.amp:
        raise UserError('--tta and --amp are for checkpoints: a file predicts on images as they are, in its precision')
    scope, cfg.load_from = cfg.get('default_scope'), None
    if scope == 'mmpretrain':
        raise UserError('classifiers are evaluated from checkpoints alone')
    if scope == 'mmseg':
        from ...export import exported_segmentor  # noqa: F401 (it registers the type)
        cfg.model = dict(type='ExportedSegmentor', file=args.checkpoint, test_cfg=cfg.model.test_cfg)
    else:
        from ...export import exported_detector  # noqa: F401
        cfg.model = dict(type='ExportedDetector', file=args.checkpoint)


def augment(cfg):
    """Test-time augmentation by the config's tta_model and tta_pipeline; flips, as in mmdet's and mmpretrain's own
    tools, by default."""
    if cfg.get('default_scope') == 'mmpretrain':
        cfg.setdefault('tta_model', dict(type='AverageClsScoreTTA'))
        add_flips(cfg)
    elif cfg.get('default_scope') != 'mmseg':
        in_regions = bool(cfg.model.get('roi_head', {}).get('mask_head'))
        if in_regions or (own_data.predicts_masks(cfg.model) and 'segm' in str(cfg.test_evaluator)):
            raise UserError("mmdet's test-time augmentation merges boxes and no masks: for the boxes alone, add "
                            f"--cfg-options {'model.roi_head.mask_head=None ' * in_regions}test_evaluator.metric=bbox")
        cfg.setdefault('tta_model', dict(
            type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)))
        add_flips(cfg, meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))
    elif 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def add_flips(cfg, **packed):
    """Every image and its mirror image as tta_pipeline, unless the config has one.

    Args:
        packed: options of the step that packs them.
    """
    if 'tta_pipeline' not in cfg:
        *steps, pack = cfg.test_dataloader.dataset.pipeline
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [dict(pack, **packed)]])]
