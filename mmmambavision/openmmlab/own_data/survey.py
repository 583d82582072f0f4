"""Statistics and faults of a data set, as a table and as messages."""
from collections import Counter
from dataclasses import dataclass
from statistics import median

from ...terminal import show

MAX_CLASSES = 40  # rows of classes in the table


@dataclass
class Survey:
    """Statistics and faults of one split.

    Args:
        rows: counts and sizes by name, the rows of a table.
        classes: number of boxes or images of each class, by name.
        unit: the unit of `classes`: boxes or images.
        problems: (count, text) pairs for faults that prevent training.
        oddities: (count, text) pairs for faults that training tolerates.
    """
    rows: dict
    classes: Counter
    unit: str
    problems: list
    oddities: list

    @property
    def errors(self):
        return [f'{count} {text}' for count, text in self.problems if count]

    @property
    def warnings(self):
        return [f'{text}: {count}' for count, text in self.oddities if count]


def first(values, count=3):
    """The first values, for a message."""
    values = list(values)
    return ', '.join(map(str, values[:count])) + ', ...' * (len(values) > count)


def spread(values):
    """Minimum, median and maximum, for a table."""
    return f'{min(values):g} / {median(values):g} / {max(values):g}' if values else '-'


def show_table(surveys):
    """Print the surveys {'train': Survey, 'val': Survey} side by side."""
    rows = [[name, *(str(survey.rows[name]) for survey in surveys.values())] for name in surveys['train'].rows]
    total = sum((survey.classes for survey in surveys.values()), start=Counter())
    unit = surveys['train'].unit
    for name, _ in total.most_common(MAX_CLASSES):
        rows.append([f'{unit}: {name}', *(str(survey.classes[name]) for survey in surveys.values())])
    if len(total) > MAX_CLASSES:
        rows.append([f'... and {len(total) - MAX_CLASSES} classes with fewer', *([''] * len(surveys))])
    show(['', *surveys], rows)
