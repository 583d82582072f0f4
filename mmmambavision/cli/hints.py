"""The options of commands that mend a mistake. The library names a hint; only commands know their options."""
from ..errors import UserError

HINTS = dict(
    config='Name the config: --config CONFIG',
    less_memory='On the command line: --cfg-options train_dataloader.batch_size=1 --auto-scale-lr; --amp; '
                '--cfg-options model.backbone.with_cp=True',
    new_start='On the command line: --weights CHECKPOINT --work-dir NEW_FOLDER',
    out='On the command line: --out NEW_FOLDER',
    part='On the command line: --part neck or --part backbone',
    part_backbone='On the command line: --part backbone',
    resume='To resume: the same command with --resume',
    work_dir='On the command line: --work-dir NEW_FOLDER',
)


def with_hint(error: UserError) -> str:
    """The message of an error and the sentences of its hints."""
    return '. '.join([str(error), *(HINTS[hint] for hint in error.hints)])
