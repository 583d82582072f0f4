"""Evaluate a checkpoint of a detector or a segmentor: `python tools/test.py CONFIG CHECKPOINT`."""
from mmmambavision.cli.test import main
from mmmambavision.terminal import run

if __name__ == '__main__':
    run(main)
