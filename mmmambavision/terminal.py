"""What a command says on the terminal: tables, and mistakes of the user as one sentence."""
import sys
from collections.abc import Callable, Iterable, Sequence

from .cli.hints import with_hint
from .errors import UserError

BY_HAND = 130  # exit status that shells give Ctrl-C, and that a script that tries again has to stop at


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool = False, left: int = 1) -> None:
    """Print a table of strings on the terminal or in Markdown, the first `left` columns aligned to the left."""
    if markdown:
        print('| ' + ' | '.join(columns) + ' |\n' + '|---' * left + '|---:' * (len(columns) - left) + '|')
        for row in rows:
            print('| ' + ' | '.join(row) + ' |')
        return
    from rich.console import Console
    from rich.table import Table
    table = Table(*columns)
    table.columns[0].no_wrap = True
    for column in table.columns[left:]:
        column.justify = 'right'
    for row in rows:
        table.add_row(*row)
    Console(width=max(180, Console().width)).print(table)


def run(main: Callable[[], object]) -> None:
    """Run a command's `main`. A mistake of the user ends it with one message and exit status 1, Ctrl-C with 130."""
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {with_hint(error)}')
    except KeyboardInterrupt as error:
        print(str(error) or 'interrupted', file=sys.stderr)
        sys.exit(BY_HAND)
