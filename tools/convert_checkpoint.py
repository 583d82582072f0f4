"""Slim a checkpoint to its weights: `python tools/convert_checkpoint.py CHECKPOINT OUT.safetensors` (or OUT.pth).

Detectors and segmentors keep all their weights and classifiers those of their backbone, under the names of this
package; optimizers, logs and arguments go. OUT.pth is mmengine's form; both load as any checkpoint does.
"""
import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmmambavision.checkpoints.files import fetch, read_checkpoint
from mmmambavision.checkpoints.weights import backbone_weights, is_bare
from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def weights_of(checkpoint):
    """The weights of a checkpoint's model by name, each with memory of its own."""
    backbone, _ = backbone_weights(checkpoint)
    state = backbone if is_bare(checkpoint) else checkpoint.get('state_dict', checkpoint)
    return {name.removeprefix('module.'): tensor.detach().clone().contiguous() for name, tensor in state.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='file, URL or hf://owner/repository')
    parser.add_argument('out', type=Path, help='new file, .safetensors or .pth')
    args = parser.parse_args(argv)
    if args.out.suffix not in ('.safetensors', '.pth') or args.out.exists():
        raise UserError(f'{args.out} must be a new file that ends in .safetensors or .pth')
    path = fetch(args.checkpoint)
    weights = weights_of(read_checkpoint(path))
    if args.out.suffix == '.pth':
        torch.save(dict(state_dict=weights, meta={}), args.out)
    else:
        save_file(weights, args.out)
    sizes = [Path(file).stat().st_size / 2 ** 20 for file in (path, args.out)]
    print(f'{len(weights)} tensors in {args.out}: {sizes[0]:.1f} MiB became {sizes[1]:.1f} MiB')


if __name__ == '__main__':
    run(main)
