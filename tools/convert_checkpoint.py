"""Slim a checkpoint to its weights: `python tools/convert_checkpoint.py CHECKPOINT OUT.safetensors` (or OUT.pth)."""
from mmmambavision.cli.convert_checkpoint import main
from mmmambavision.terminal import run

if __name__ == '__main__':
    run(main)
