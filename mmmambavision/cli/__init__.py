"""The commands.

Each module here describes one command with the standard library only, so `--help` and a wrong argument are answered at
once. The module of the same name in `work` is imported after that and does the work. A command's module has

- `add_arguments(parser)`: the arguments of the command;
- `check(args)`: raises `UserError` for arguments that do not fit each other, and returns them otherwise;
- `run(args)`: does the work;
- `main(argv)`: all of this, for the script in `tools/`.

`main.py` is the program `mmmambavision`, which has a subcommand for each.
"""
import argparse
import sys

__all__ = ['parse', 'parser_of', 'run_command']


def parser_of(command, parsers=None, name=None):
    """The argparse parser of a command's module; with `parsers`, a subparser of that name."""
    options = dict(description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if parsers is None:
        parser = argparse.ArgumentParser(**options)
    else:
        parser = parsers.add_parser(name, help=command.__doc__.split('\n')[0].rstrip('.'), **options)
    command.add_arguments(parser)
    return parser


def parse(command, argv=None):
    """The checked arguments of a command's module, from `argv` or `sys.argv`."""
    return command.check(parser_of(command).parse_args(argv))


def run_command(name, argv=None):
    """Run the command of the module `name` with `argv` or `sys.argv`."""
    command = sys.modules[name]
    command.run(parse(command, argv))
