"""Write only the weights of a checkpoint to a smaller file."""
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...checkpoints.files import fetch, load_checkpoint, split_key, tensors_of
from ...checkpoints.names import backbone_weights, is_bare
from ...checkpoints.weights import check_values


def convert(checkpoint, out):
    """Write the weights of a checkpoint (path, URL or hf:// name) to a new .safetensors or .pth file."""
    weights = weights_of(load_checkpoint(checkpoint))
    if out.suffix == '.pth':
        torch.save(dict(state_dict=weights, meta={}), out)
    else:
        save_file(weights, out)
    sizes = [Path(file).stat().st_size / 2 ** 20 for file in (fetch(split_key(checkpoint)[0]), out)]
    print(f'{len(weights)} tensors in {out}: {sizes[0]:.1f} MiB became {sizes[1]:.1f} MiB')


def weights_of(checkpoint):
    """The weights of a checkpoint by name, without shared memory."""
    backbone, _ = backbone_weights(checkpoint)
    state = backbone if is_bare(checkpoint) else checkpoint.get('state_dict') or tensors_of(checkpoint)
    check_values(state)
    return {name.removeprefix('module.'): tensor.detach().clone().contiguous() for name, tensor in state.items()}
