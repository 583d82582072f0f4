"""Visualize a trained network: `python tools/visualize.py attention --config CONFIG --checkpoint FILE IMAGE...`."""
from mmmambavision.cli.visualize import main
from mmmambavision.terminal import run

if __name__ == '__main__':
    run(main)
