"""What a pickle would do, found without unpickling it.

torch unpickles harmless classes alone, but some of them take memory by a number in the file, read beyond their
storage, or never end. A pickle that torch wrote calls few functions, with arguments of known form; here all else is
refused. The names of classes stay torch's to judge.
"""
import pickletools
import re
from dataclasses import dataclass
from typing import Any

ROOM = 10 ** 6  # parts of a nested tuple, each counted as often as it is referred to: hashing visits them all
DEPTH = 50
LATIN = ('latin1', 'latin-1', 'ascii', 'utf-8', 'utf8')
PUSHED: dict[str, Any] = {
    'NONE': None, 'NEWFALSE': False, 'NEWTRUE': True, 'EMPTY_LIST': [], 'EMPTY_DICT': {}, 'EMPTY_SET': {},
    'EMPTY_TUPLE': ()}
LITERALS = ('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINSTRING')


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""
    text: str


@dataclass(frozen=True)
class Made:
    """What a function or class that a pickle calls would return; a storage's size in elements."""
    by: str
    size: int = 0


def check_pickle(stream):
    """See that the next pickle of a stream of bytes is one that `torch.save` could have written.

    Raises:
        ValueError: it is not; the stream's position is then anywhere.
    """
    stack, marked, memo, sizes = [], [], {}, {}
    for code, argument, _ in pickletools.genops(stream):
        name = code.name
        if name == 'STOP':
            return
        if name in PUSHED:
            stack.append(PUSHED[name])
        elif name in LITERALS:
            stack.append(argument)
        elif name == 'GLOBAL':
            stack.append(Name(argument.replace(' ', '.', 1).replace('__builtin__', 'builtins')))
        elif name == 'MARK':
            marked.append(stack)
            stack = []
        elif name == 'TUPLE':
            parts, stack = tuple(stack), marked.pop()
            stack.append(counted(parts, sizes))
        elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
            count = int(name[-1])
            stack[-count:] = [counted(tuple(stack[len(stack) - count:]), sizes)]
        elif name in ('APPENDS', 'SETITEMS'):
            stack = marked.pop()
        elif name == 'APPEND':
            stack.pop()
        elif name == 'SETITEM':
            del stack[-2:]
        elif name in ('BINPUT', 'LONG_BINPUT'):
            memo[argument] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[argument])
        elif name == 'BINPERSID':
            stack.append(storage(stack.pop()))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments, function = stack.pop(), stack.pop()
            check_call(function, arguments)
            stack.append(Made(function.text))
        elif name == 'BUILD':
            check_state(stack.pop(), stack[-1])
        elif name != 'PROTO':
            raise ValueError(f'a checkpoint has no {name} in its pickle')
    raise ValueError('its pickle has no end')


def counted(parts, sizes):
    """A tuple that is not too large to be hashed; `sizes` has what was counted, by the tuples' ids."""
    inner = [sizes[id(part)][1:] for part in parts if id(part) in sizes]
    size, depth = len(parts) + sum(count for count, _ in inner), 1 + max((deep for _, deep in inner), default=0)
    if depth > DEPTH or (inner and size > ROOM):
        raise ValueError('its pickle nests tuples without an end')
    sizes[id(parts)] = parts, size, depth  # with the tuple, whose id is its own only as long as it lives
    return parts


def storage(identity):
    """The storage that a persistent id of torch.save is for: ('storage', class, key, device, elements[, view])."""
    if isinstance(identity, tuple) and len(identity) in (5, 6):
        size = identity[5][2] if identity[5:] and identity[5] else identity[4]
        if type(size) is int and size >= 0:
            return Made('storage', size)
    raise ValueError('a storage in its pickle has no size')


def check_call(function, arguments):
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError('its pickle calls what is no function')
    name = function.text
    if name.startswith('torch._utils._rebuild_tensor'):
        fine = fits(*arguments[:4])
    elif name == 'torch._tensor._rebuild_from_type_v2':
        fine = len(arguments) == 4
        if fine:
            check_call(arguments[0], arguments[2])
    elif name in RULES:
        fine = RULES[name](arguments, {type(argument) for argument in arguments})
    else:
        fine = not ALLOCATES.fullmatch(name)
    if not fine:
        raise ValueError(f'its pickle calls {name} as torch.save never does')


def fits(storage=None, offset=None, size=None, stride=None):
    """Whether a tensor lies within its storage."""
    if not (isinstance(storage, Made) and storage.by == 'storage' and isinstance(offset, int)):
        return False
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        return False
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        return False
    return 0 in size or offset + sum((n - 1) * step for n, step in zip(size, stride)) < storage.size


def check_state(state, instance):
    made = instance.by if isinstance(instance, Made) else ''
    if made.startswith('torch.') or (made == 'numpy.dtype' and not (
            isinstance(state, tuple) and len(state) in (8, 9) and state[3] is None and state[4] is None)):
        raise ValueError(f'its pickle sets the state of what {made} makes, as torch.save never does')


def of(*kinds):
    return lambda arguments, found: found <= set(kinds)


RULES = {
    'builtins.bytearray': lambda arguments, _: all(type(a) is str or a == Made('_codecs.encode') for a in arguments),
    'builtins.set': of(list), 'builtins.complex': of(float),
    'collections.Counter': of(dict), 'collections.OrderedDict': of(list),
    'torch.Size': lambda arguments, _: all(isinstance(a, tuple) for a in arguments),
    'torch.device': of(str, int), 'torch.serialization._get_layout': of(str),
    '_codecs.encode': lambda arguments, _: len(arguments) == 2 and arguments[1] in LATIN,
    'numpy.dtype': lambda arguments, _: re.fullmatch(r'\W?[a-zA-Z]\d{0,4}', arguments[0]),
}
for core in ('core', '_core'):
    RULES[f'numpy.{core}.multiarray._reconstruct'] = lambda arguments, _: arguments[1] == (0,)  # filled by its state
    RULES[f'numpy.{core}.multiarray.scalar'] = lambda arguments, _: len(arguments) == 2
ALLOCATES = re.compile(r'torch\.[\w.]*(Tensor|Storage)|numpy\.ndarray')  # when called by themselves
