"""Command-line options that fix an error. The library names a hint, and this module adds the options."""
from ..errors import UserError

HINTS = dict(
    config='Give the config: --config CONFIG',
    data='On the command line: --data FOLDER',
    holdout='To hold out a fifth of the images: --holdout 0.2',
    images='To give the image folder: --images FOLDER',
    launcher='For example: torchrun --nproc_per_node 8 tools/train.py CONFIG --fsdp --launcher pytorch',
    less_memory='On the command line: --cfg-options train_dataloader.batch_size=1 --auto-scale-lr; --amp; '
                '--cfg-options model.backbone.with_cp=True; with several GPUs --fsdp',
    new_start='On the command line: --weights CHECKPOINT --work-dir NEW_FOLDER',
    out='On the command line: --out NEW_FOLDER',
    part='On the command line: --part neck or --part backbone',
    part_backbone='On the command line: --part backbone',
    resume='To resume: the same command with --resume',
    slide='For example: --cfg-options model.test_cfg.mode=slide model.test_cfg.crop_size=512,512 '
          'model.test_cfg.stride=384,384',
    static='For one size: --static --size HEIGHT WIDTH',
    train_json='To give the json of training: --train-json FILE',
    val_json='To give the json of validation: --val-json FILE',
    work_dir='On the command line: --work-dir NEW_FOLDER',
)


def with_hint(error: UserError) -> str:
    """The message of an error with the texts of its hints."""
    return '. '.join([str(error), *(HINTS[hint] for hint in error.hints)])
