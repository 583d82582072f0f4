"""MambaVision and its peers, small and trained alike: `python tools/benchmarks/peers_trained.py`.

Backbones of equal parameters, to 5%, under the demo's Cascade Mask R-CNN and UperNet, from random weights, with the
budgets of peers_detection.py and peers_segmentation.py beside this file, each at the learning rate of three that is
best for it on the first seed; AP and mIoU over several seeds, and the speed of the whole models, measured in turn at
the end. A run that is finished is a file in the work dir: a study that was interrupted goes on where it was.
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
    parser.add_argument('--rounds', type=int, default=100, help='images that each model is timed on; default 100')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/peers'),
                        help='folder for data, records, table and plot; default work_dirs/peers')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    args = parser.parse_args(argv)
    args.task = list(dict.fromkeys(args.task))  # one that is named twice is trained once
    if args.seeds < 1 or args.rounds < 1:
        raise UserError('--seeds and --rounds must be at least 1')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.peers_trained import compare
    compare(args)


if __name__ == '__main__':
    run(main)
