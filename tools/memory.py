"""Estimate the GPU memory of a training step: `python tools/memory.py CONFIG --batch 2 --size 800 1344`."""
from mmmambavision.cli.memory import main
from mmmambavision.terminal import run

if __name__ == '__main__':
    run(main)
