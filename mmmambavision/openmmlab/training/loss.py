"""Stop a training when its loss or weights become NaN or infinite, without a checkpoint of these weights."""
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch.distributed.tensor import DTensor

from ...errors import UserError
from ..configs import add_hook
from .checkpoints import way_on


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Stop after several NaN or infinite losses in a row, or before a checkpoint of NaN or infinite weights.

    One such loss is harmless in mixed precision, because the gradient scaler skips the step. In float32 it destroys
    the weights, and all later losses are NaN too.

    Args:
        patience (int): number of NaN or infinite losses in a row that stop the training.

    Raises:
        UserError: during training. The message names the iteration, the files of the batch and the last complete
            checkpoint.
    """
    priority = 'LOW'  # after the log, before the checkpoint

    def __init__(self, patience=3):
        self.patience = patience
        self.count = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = (outputs or {}).get('loss')
        if loss is None or torch.isfinite(torch.as_tensor(loss)).all():
            self.count = 0
            return
        if self.count == 0:
            self.first = f'iteration {runner.iter + 1}{files(data_batch)}'
        self.count += 1
        if self.count >= self.patience:
            self.stop(runner, f'{self.count} losses in a row were NaN or infinite')

    def before_save_checkpoint(self, runner, checkpoint):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # With shards, this process holds only a part of a parameter, and the checkpoint the whole.
        bad = [name for name, weights in model.named_parameters() if not torch.isfinite(
            checkpoint['state_dict'][name] if isinstance(weights, DTensor) else weights).all()]
        bad += [name for name, values in model.named_buffers() if torch.isnan(values).any()]
        if bad:
            iteration = checkpoint['meta']['iter']  # at the end of an epoch, runner.iter already counts the next epoch
            self.stop(runner, f'weights became NaN or infinite ({bad[0]} and {len(bad) - 1} more). No checkpoint is '
                              f'written at iteration {iteration}')

    def stop(self, runner, what):
        first = f', first at {self.first}' if self.count else ''
        last, hint = way_on(runner.work_dir)
        raise UserError(
            f'training stopped: {what}{first}. {last}. Check the annotations of these files, and try a lower learning '
            'rate (optim_wrapper.optimizer.lr), gradient clipping (optim_wrapper.clip_grad.max_norm), or float32 '
            'instead of mixed precision', hint)


def files(data_batch):
    """The image files of a batch, as the end of a sentence."""
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    paths = [str(path) for sample in samples or () if (path := getattr(sample, 'img_path', None))]
    return f' (its batch: {", ".join(paths)})' if paths else ''


def put_into(cfg):
    """Add the hook to a config, unless the config has it already."""
    add_hook(cfg, 'InvalidLossHook')
