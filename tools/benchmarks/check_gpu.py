"""Check mmmambavision on an NVIDIA GPU and measure it: `python tools/benchmarks/check_gpu.py --quick`.

The command installs and downloads nothing. Each part runs in its own process with a time limit. After each part, its
result is added to report.md and report.json in the folder --out. A failed part does not stop the other parts.
"""
import argparse
from pathlib import Path

from mmmambavision.terminal import run


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true',
                        help='fewer rounds and shapes: about 8 minutes on an H100, by estimate')
    parser.add_argument('--out', type=Path, default=Path('gpu_report'), metavar='DIR',
                        help='new folder for the report; default gpu_report')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda',
                        help='cpu: try only the parts that need no GPU, with small sizes')
    parser.add_argument('--only', nargs='+', metavar='PART', help='run these parts; a wrong name lists all')
    parser.add_argument('--part', help=argparse.SUPPRESS)  # runs a part that has no command of its own
    parser.add_argument('--size', nargs=2, type=int, default=(800, 1344), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if args.part:
        from benchmarking.check_gpu_parts import PARTS
        return PARTS[args.part](args.device, tuple(args.size))
    from benchmarking.check_gpu import check_all
    check_all(args.device, args.quick, args.out, args.only)


if __name__ == '__main__':
    run(main)
