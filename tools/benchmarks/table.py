"""Print the result table of a benchmark and write it to a file."""
import csv

from mmmambavision.terminal import show


def report(rows, columns, as_text, markdown=False, file=None):
    """Print rows, dicts by the keys of `columns`, less the columns that are empty in all of them.

    Args:
        rows: what was measured.
        columns: titles by key.
        as_text: (row, key) to the text of a cell.
        markdown: as `show` has it.
        file: a csv file to write as well, the keys on top, or None.
    """
    keys = [key for key in columns if any(row.get(key) is not None for row in rows)]
    cells = [[as_text(row, key) for key in keys] for row in rows]
    show([columns[key] for key in keys], cells, markdown)
    if file:
        with file.open('w', newline='') as stream:
            csv.writer(stream).writerows([keys, *cells])
