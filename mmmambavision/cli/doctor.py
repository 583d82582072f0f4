"""Print versions, backends, operators and hardware, for a bug report."""
from .. import cli


def add_arguments(parser):
    pass


def check(args):
    return args


def run(args):
    from .work.doctor import examine
    examine()


def main(argv=None):
    cli.run_command(__name__, argv)
