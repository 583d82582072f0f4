"""The checkpoints in a work dir."""
from pathlib import Path

from mmengine.logging import print_log

from ...checkpoints.files import read_checkpoint
from ...errors import UserError


def checkpoints(work_dir):
    """Paths of the checkpoints in a work dir, the last one first."""
    files = [f for pattern in ('epoch_*.pth', 'iter_*.pth') for f in Path(work_dir).glob(pattern)]
    return sorted(files, key=lambda f: f.stat().st_mtime, reverse=True)


def latest_checkpoint(work_dir):
    """The last checkpoint in a work dir that can be read; one half written when its process was
    killed is passed over."""
    for path in checkpoints(work_dir):
        try:
            read_checkpoint(path)
            return str(path)
        except UserError as error:
            print_log(f'passed over: {error}')
    print_log(f'nothing to resume from in {work_dir}: training starts at the beginning')
    return None
