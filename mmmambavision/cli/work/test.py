"""Evaluate a checkpoint or an exported file with mmengine's Runner."""
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
    """Evaluate with the arguments of cli/test.py."""
    cfg = load_config(args.config, settings_of(args.cfg_options), args.work_dir, args.launcher, args.local_rank)
    fit_to_machine(cfg)
    apply_options(cfg, args)
    check_data(cfg, 'test_dataloader')
    add_hook(cfg, 'CheckClasses')
    determinism.put_into(cfg)
    checkpoint, cfg.load_from = cfg.load_from, None
    if checkpoint:
        fetch(split_key(checkpoint)[0])  # fail before the data set is read
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
        cfg.test_cfg.fp16 = True  # autocast in mmengine's loop, with the default type of the device
    if args.checkpoint.endswith(('.onnx', '.xml')):
        if not Path(args.checkpoint).is_file():
            raise UserError(f'file not found: {args.checkpoint}')
        if args.tta or args.amp:
            raise UserError('--tta and --amp work only with checkpoints, not with an exported file')
        replace_model(cfg, args.checkpoint)
    else:
        cfg.load_from = args.checkpoint
    segments, classifies = (cfg.get('default_scope') == scope for scope in ('mmseg', 'mmpretrain'))
    if args.out:
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
        dump = dict(type='DumpResults' if segments or classifies else 'DumpDetResults', out_file_path=str(args.out))
        cfg.test_evaluator = [*evaluators, dump]
    if args.show_dir:
        if 'visualization' not in cfg.get('default_hooks', {}):
            raise UserError('--show-dir needs default_hooks.visualization in the config')
        if classifies:
            if args.tta:
                raise UserError('--show-dir does not work with --tta for classifiers, because mmpretrain draws only '
                                'unaugmented images. Run the command twice')
            cfg.default_hooks.visualization.update(enable=True, interval=1, out_dir=args.show_dir)
            return
        cfg.default_hooks.visualization.draw = True
        if segments:
            cfg.visualizer.save_dir = args.show_dir
        else:
            cfg.default_hooks.visualization.test_out_dir = args.show_dir
    if args.tta:
        augment(cfg)


def replace_model(cfg, file):
    """Replace the config's model by an exported file."""
    scope, cfg.load_from = cfg.get('default_scope'), None
    if scope == 'mmpretrain':
        from ...export import exported_classifier  # noqa: F401 (it registers the type)
        cfg.model = dict(type='ExportedClassifier', file=file)
        cfg.pop('data_preprocessor', None)
    elif scope == 'mmseg':
        from ...export import exported_segmentor  # noqa: F401
        cfg.model = dict(type='ExportedSegmentor', file=file, test_cfg=cfg.model.test_cfg)
    else:
        from ...export import exported_detector  # noqa: F401
        cfg.model = dict(type='ExportedDetector', file=file) if 'panoptic_head' not in cfg.model else dict(
            type='ExportedMaskFormer', file=file, fusion_head=cfg.model.panoptic_fusion_head,
            test_cfg=cfg.model.test_cfg)


def augment(cfg):
    """Set up test-time augmentation with the config's tta_model and tta_pipeline.

    The default is horizontal flips, as in the tools of mmdet and mmpretrain.
    """
    if cfg.get('default_scope') == 'mmpretrain':
        cfg.setdefault('tta_model', dict(type='AverageClsScoreTTA'))
        add_flips(cfg)
    elif cfg.get('default_scope') != 'mmseg':
        in_regions = bool(cfg.model.get('roi_head', {}).get('mask_head'))
        if in_regions or (own_data.predicts_masks(cfg.model) and 'segm' in str(cfg.test_evaluator)):
            raise UserError("mmdet's test-time augmentation cannot merge masks. To evaluate only boxes, add "
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
    """Add a tta_pipeline with each image and its mirror image, unless the config has one.

    Args:
        packed: options of the packing step.
    """
    if 'tta_pipeline' not in cfg:
        *steps, pack = cfg.test_dataloader.dataset.pipeline
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [dict(pack, **packed)]])]
