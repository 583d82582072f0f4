"""The contents of a data set and its faults, as a table and as sentences."""
from collections import Counter
from dataclasses import dataclass
from statistics import median

from ...terminal import show

MAX_CLASSES = 40  # rows of classes in the table


@dataclass
class Survey:
    """One split.

    Args:
        rows: counts and sizes by their names, the lines of a table.
        classes: how many of what `unit` names each class has, by name.
        unit: boxes, or images that a class is in.
        problems: (number, rest of the sentence) of what cannot be trained with.
        oddities: (number, what there are so many of) of what can.
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
    """The first of some values, for a message."""
    values = list(values)
    return ', '.join(map(str, values[:count])) + ', ...' * (len(values) > count)


def spread(values):
    """Smallest, middle and largest value, for a table."""
    return f'{min(values):g} / {median(values):g} / {max(values):g}' if values else '-'


def show_table(surveys):
    """Print what each split has, {'train': Survey, 'val': Survey}, side by side."""
    rows = [[name, *(str(survey.rows[name]) for survey in surveys.values())] for name in surveys['train'].rows]
    total = sum((survey.classes for survey in surveys.values()), start=Counter())
    unit = surveys['train'].unit
    for name, _ in total.most_common(MAX_CLASSES):
        rows.append([f'{unit}: {name}', *(str(survey.classes[name]) for survey in surveys.values())])
    if len(total) > MAX_CLASSES:
        rows.append([f'... and {len(total) - MAX_CLASSES} classes with fewer', *([''] * len(surveys))])
    show(['', *surveys], rows)
