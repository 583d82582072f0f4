"""Parameters of a test that wait for a later tier than the test itself."""
import pytest


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def full(*values):
    return pytest.param(*values, marks=pytest.mark.full)


def but_first(values, later=full, count=1):
    """The first `count` values as they are, the others later."""
    values = list(values)
    return [*values[:count], *map(later, values[count:])]
