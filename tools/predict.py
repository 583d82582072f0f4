"""Predict on pictures and videos: `python tools/predict.py INPUT... --config CONFIG --checkpoint FILE [--out DIR]`."""
from mmmambavision.cli.predict import main
from mmmambavision.terminal import run

if __name__ == '__main__':
    run(main)
