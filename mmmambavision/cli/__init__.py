"""The commands.

Each module here describes one command and imports only the standard library, so `--help` and argument errors are fast.
The module of the same name in `work` does the work and is imported later. A command's module has

- `add_arguments(parser)`: the arguments of the command;
- `check(args)`: raises `UserError` for invalid combinations of arguments, and otherwise returns the arguments;
- `run(args)`: does the work;
- `main(argv)`: all steps together, for the script in `tools/`.

`main.py` is the program `mmmambavision` with one subcommand per command.
"""
import argparse
import sys

__all__ = ['parse', 'parser_of', 'run_command']


def parser_of(command, parsers=None, name=None):
    """The argparse parser of a command's module. With `parsers`, a subparser called `name`."""
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
