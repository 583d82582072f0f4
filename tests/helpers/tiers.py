"""Test parameters that run only in a later tier than the test itself."""
import pytest


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def full(*values):
    return pytest.param(*values, marks=pytest.mark.full)


def but_first(values, later=full, count=1):
    """Keep the first `count` values in this tier and move the others to a later tier."""
    values = list(values)
    return [*values[:count], *map(later, values[count:])]
