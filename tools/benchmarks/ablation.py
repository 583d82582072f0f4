"""Ablations of MambaVision's design: `python tools/benchmarks/ablation.py --study mixer`.

A study trains nano networks with equal numbers of parameters in the same way on drawn shapes, and compares their IoU
over several seeds. Some classes depend on a distant marker (make_shapes_dataset.py --task context). The training config
is ablation_config.py. Each finished run is a file in the work dir. After an interruption, the same command trains only
the missing runs.
"""
import argparse
from pathlib import Path

from mmmambavision.errors import UserError
from mmmambavision.terminal import run

CONFIG = Path(__file__).with_name('ablation_config.py')
STUDIES = ('mixer', 'mixer_alone', 'pattern', 'windows')


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--study', choices=STUDIES, required=True, help='the part of the design to change')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each variant; default 3')
    parser.add_argument('--config', default=CONFIG, help='another training config; default ablation_config.py')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/ablation'),
                        help='folder for data, records, table and plot; default work_dirs/ablation')
    parser.add_argument('--markdown', action='store_true', help='print a table for a document')
    args = parser.parse_args(argv)
    if args.seeds < 1:
        raise UserError('--seeds must be at least 1')
    if not Path(args.config).is_file():
        raise UserError(f'config not found: {args.config}')
    return args


def main(argv=None):
    args = parse_args(argv)
    from benchmarking.ablation import compare
    compare(args)


if __name__ == '__main__':
    run(main)
