"""Try an NVIDIA GPU: tests of the scan and of the golden cases, ten iterations of the demo in mixed precision, and the
benchmarks. Prints a report to paste into an issue: `make check-gpu`."""
import argparse

from mmmambavision.terminal import run


def main(argv=None):
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    from check_gpu_run import check_all
    check_all()


if __name__ == '__main__':
    run(main)
