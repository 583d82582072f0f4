"""What is in a part of a data set and what is wrong with it."""
from collections import Counter
from dataclasses import dataclass
from statistics import median


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
