"""Memory and time of training steps on a CPU, beside the estimate of `mmmambavision memory`.

`python tools/benchmarks/training_memory.py configs/upernet_mambavision_l3.py --size 640 640 --cp --amp`. The config is
of a segmentor. Weights, images and labels are random, and the loss is the model's own. --steps 1 stops after one step
of AdamW. The columns are: the estimate; the maximum of the tensors that torch's operations return, with parameters,
gradients and states; the peak of the whole process (VmHWM), with libraries and buffers inside of operators.
"""
import argparse

from mmmambavision.cli.arguments import add_settings
from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='config file of a segmentor')
    parser.add_argument('--size', type=int, nargs=2, default=(512, 512), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--batch', type=int, default=1, help='images')
    parser.add_argument('--steps', type=int, default=2, help='training steps; default 2')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--cp', action='store_true', help='activation checkpointing of the backbone')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    add_settings(parser)
    args = parser.parse_args(argv)
    if min(args.batch, args.steps) < 1 or min(args.size) < 32:
        raise UserError('--batch and --steps must be at least 1, and both sides of --size at least 32')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.training_memory import measure
    measure(args)


if __name__ == '__main__':
    run(main)
