"""Export a config's network to an ONNX file: `python tools/export.py CONFIG [CHECKPOINT] --out model.onnx`."""
from mmmambavision.cli.export import main
from mmmambavision.terminal import run

if __name__ == '__main__':
    run(main)
