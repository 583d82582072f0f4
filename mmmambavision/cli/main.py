"""The program `mmmambavision`: a subcommand for each command."""
import argparse

from ..interrupts import before_training
from ..terminal import run
from ..version import __version__
from . import (
    convert_checkpoint,
    doctor,
    export,
    memory,
    parser_of,
    plot_curves,
    predict,
    recipes,
    test,
    train,
    visualize,
)

COMMANDS = dict(train=train, test=test, predict=predict, export=export, visualize=visualize,
                convert=convert_checkpoint, plot=plot_curves, recipes=recipes, memory=memory,
                doctor=doctor)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmmambavision', description='MambaVision for object detection and segmentation with OpenMMLab.',
        epilog='CONFIG is a config file or the name of a recipe, see `mmmambavision recipes`. For shell completion: '
               'pip install argcomplete; eval "$(register-python-argcomplete mmmambavision)"')
    parser.add_argument('--version', action='version', version=f'mmmambavision {__version__}')
    parsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, command in COMMANDS.items():
        parser_of(command, parsers, name)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run a subcommand with `argv` or `sys.argv`."""
    parser = build_parser()
    try:
        import argcomplete
        argcomplete.autocomplete(parser)
    except ImportError:  # completion is optional
        pass
    args = parser.parse_args(argv)
    command = COMMANDS[args.command]
    if command is train:
        before_training()
    command.run(command.check(args))


def console() -> None:
    """Entry point of the program: `main` with short error messages for a UserError."""
    run(main)
