"""List the recipes by name, with their published results."""
from .. import cli


def add_arguments(parser):
    parser.add_argument('text', nargs='?', default='', metavar='TEXT', help='show only names with this text')
    parser.add_argument('--markdown', action='store_true', help='print a Markdown table')


def check(args):
    return args


def run(args):
    from .. import recipes
    from ..terminal import show
    described = {entry['Name']: entry for entry in recipes.index()}
    rows = []
    for name in recipes.names():
        if args.text in name:
            entry = described.get(name, {})
            results = entry.get('Results', [])
            rows.append([name, ', '.join(dict.fromkeys(result['Dataset'] for result in results)),
                         ', '.join(f'{key} {value}' for result in results for key, value in result['Metrics'].items())])
    show(('recipe', 'data set', 'published'), rows, args.markdown, left=3)


def main(argv=None):
    cli.run_command(__name__, argv)
