"""Train a detector or a segmentor: `python tools/train.py CONFIG`; several GPUs: torchrun ... --launcher pytorch."""
from mmmambavision.cli.train import main
from mmmambavision.interrupts import before_training
from mmmambavision.terminal import run

if __name__ == '__main__':
    before_training()
    run(main)
