"""Train small versions of MambaVision and its peers and compare them: `python tools/benchmarks/peers_trained.py`.

The backbones have equal numbers of parameters, to 5%, and start from random weights. They are trained with a small
Cascade Mask R-CNN (peers_detection.py) and the demo's UperNet (peers_segmentation.py). For each backbone, the first
seed selects the best of three learning rates. The command reports AP and mIoU over several seeds. At the end, it times
the whole models with interleaved calls. Each finished run is a file in the work dir. After an interruption, the same
command trains only the missing runs.
"""
import argparse
from pathlib import Path

from mmmambavision.errors import UserError
from mmmambavision.terminal import run

TASKS = ('detection', 'segmentation')


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=3, help='runs of each backbone and task; default 3')
    parser.add_argument('--task', nargs='+', choices=TASKS, default=TASKS, help='default: all')
    parser.add_argument('--rounds', type=int, default=100, help='number of images to time each model on; default 100')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/peers'),
                        help='folder for data, records, table and plot; default work_dirs/peers')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    args = parser.parse_args(argv)
    args.task = list(dict.fromkeys(args.task))  # without duplicates
    if args.seeds < 1 or args.rounds < 1:
        raise UserError('--seeds and --rounds must be at least 1')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.peers_trained import compare
    compare(args)


if __name__ == '__main__':
    run(main)
