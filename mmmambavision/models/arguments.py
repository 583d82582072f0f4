"""Check the arguments of the network and convert them to one form. Integers may have any type, such as numpy's."""
import operator
from collections.abc import Iterable
from typing import Any

from ..errors import UserError
from ..presets import PRESETS, SHORT_NAMES

NUM_LEVELS = 4


def integer(value: Any, lowest: int, highest: int | None = None) -> int | None:
    """Convert an integer of any type to int. Returns None for booleans and for values that are not in the range."""
    is_bool = isinstance(value, bool) or getattr(getattr(value, 'dtype', None), 'kind', None) == 'b'  # numpy 2.2's too
    try:
        number = None if is_bool else operator.index(value)
    except TypeError:
        return None
    return number if number is not None and lowest <= number and (highest is None or number <= highest) else None


def parse_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """Convert a preset's name or a dict to the dict of the network's sizes.

    Raises:
        UserError: a name is unknown, a key is missing or unknown, or a value is wrong.
    """
    if isinstance(arch, str):
        name = SHORT_NAMES.get(arch, arch)
        if name not in PRESETS:
            raise UserError(f"unknown arch '{arch}': choose one of {', '.join(PRESETS)} (or {', '.join(SHORT_NAMES)}), "
                            'or give a dict with dim, in_dim, depths and num_heads')
        return PRESETS[name]
    if not isinstance(arch, dict):
        raise UserError('arch must be the name of a preset or a dict with dim, in_dim, depths and num_heads, got '
                        f'{arch!r}')
    required, optional = {'dim', 'in_dim', 'depths', 'num_heads'}, {'layer_scale', 'mlp_ratio', 'mixer', 'pattern'}
    if missing := required - set(arch):
        raise UserError(f"arch lacks {', '.join(sorted(missing))}: it needs {', '.join(sorted(required))}")
    if unknown := set(arch) - required - optional:
        raise UserError(f"arch has unknown {', '.join(sorted(unknown))}: it takes "
                        f"{', '.join(sorted(required | optional))}")
    arch = dict(arch)
    for key in ('depths', 'num_heads'):
        numbers = tuple(integer(n, 1) for n in arch[key])
        if len(numbers) != NUM_LEVELS or None in numbers:
            raise UserError(f'arch.{key} must be {NUM_LEVELS} positive integers, one per level, got {arch[key]!r}')
        arch[key] = numbers
    for i in (2, 3):
        if arch['dim'] * 2 ** i % arch['num_heads'][i]:
            raise UserError(f"arch.num_heads[{i}] = {arch['num_heads'][i]} does not divide the {arch['dim'] * 2 ** i} "
                            f'channels of level {i}')
    return arch


def parse_windows(window_size: Any) -> tuple[Any, ...]:
    """Convert `window_size` to the windows of levels 2 and 3, each a positive integer, None or ('balanced', n).

    Raises:
        UserError: `window_size` has another form.
    """
    entries = tuple(window_size) if isinstance(window_size, (tuple, list)) else (window_size, window_size)
    is_balanced = len(entries) == 2 and isinstance(entries[0], str) and entries[0] == 'balanced'
    sides = entries[1:] if is_balanced else entries[2:] if len(entries) == NUM_LEVELS else entries
    windows = tuple(None if side is None and not is_balanced else integer(side, 1) for side in sides)
    refused = any(window is None and (is_balanced or side is not None) for window, side in zip(windows, sides))
    if refused or len(windows) != (1 if is_balanced else 2):
        raise UserError("window_size must be None for the whole map, a positive integer, ('balanced', n), or two "
                        'entries, for levels 2 and 3 (or a released four), each a positive integer or None; got '
                        f'{window_size!r}')
    return (('balanced', *windows),) * 2 if is_balanced else windows


def parse_out_indices(out_indices: Iterable[int]) -> tuple[int, ...]:
    """Convert `out_indices`, the levels to return, to a sorted tuple.

    Raises:
        UserError: an index is not a level, or there is no index.
    """
    entries = list(out_indices) if isinstance(out_indices, (tuple, list, range, set)) else []
    indices = [integer(entry, 0, NUM_LEVELS - 1) for entry in entries]
    if not indices or None in indices:
        raise UserError('out_indices must be a tuple of some of 0, 1, 2, 3 (the levels), such as (3,), got '
                        f'{out_indices!r}')
    return tuple(sorted({index for index in indices if index is not None}))
