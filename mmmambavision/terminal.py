"""What a command says on the terminal: tables, and mistakes of the user as one sentence."""
import sys

from .errors import UserError

BY_HAND = 130  # exit status that shells give Ctrl-C, and that a script that tries again has to stop at


def show(columns, rows, markdown=False):
    """Print a table of strings, the first column to the left, on the terminal or in Markdown."""
    if markdown:
        print('| ' + ' | '.join(columns) + ' |\n' + '|---' + '|---:' * (len(columns) - 1) + '|')
        for row in rows:
            print('| ' + ' | '.join(row) + ' |')
        return
    from rich.console import Console
    from rich.table import Table
    table = Table(*columns)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = 'right'
    for row in rows:
        table.add_row(*row)
    Console(width=max(180, Console().width)).print(table)


def run(main):
    """Run a tool's `main`; a mistake of the user ends it with its message alone and exit status 1, Ctrl-C with 130."""
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt as error:
        print(str(error) or 'interrupted', file=sys.stderr)
        sys.exit(BY_HAND)
