"""Plot the losses and metrics that a training run logged: `python tools/plot_curves.py WORK_DIR`."""
from mmmambavision.cli.plot_curves import main
from mmmambavision.terminal import run

if __name__ == '__main__':
    run(main)
