"""Check a pickle's opcodes without unpickling it.

`torch.load(weights_only=True)` has an allow-list of classes. A crafted file can still misuse allowed classes: it can
allocate any amount of memory, read outside a storage, or never end. This module rejects every call that `torch.save`
would not write. `torch.load` still checks the class names.
"""
import pickletools
import re
from dataclasses import dataclass
from typing import Any

ROOM = 10 ** 6  # maximum elements of a nested tuple, repeated references included, because hashing visits them all
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
    """Placeholder for the result of a call in a pickle. `size` is the number of elements of a storage."""
    by: str
    size: int = 0


def check_pickle(stream):
    """Check that `torch.save` could have written the next pickle of a byte stream.

    Raises:
        ValueError: the pickle is not valid. The position of the stream is then undefined.
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
            raise ValueError(f'its pickle has the opcode {name}, which torch.save never writes')
    raise ValueError('its pickle has no end')


def counted(parts, sizes):
    """Check that a tuple is small enough to hash, and return it. `sizes` caches sizes by tuple id."""
    inner = [sizes[id(part)][1:] for part in parts if id(part) in sizes]
    size, depth = len(parts) + sum(count for count, _ in inner), 1 + max((deep for _, deep in inner), default=0)
    if depth > DEPTH or (inner and size > ROOM):
        raise ValueError('its pickle nests too many tuples')
    sizes[id(parts)] = parts, size, depth  # keeps the tuple alive, so that its id stays unique
    return parts


def storage(identity):
    """The storage for a persistent id of torch.save: ('storage', class, key, device, elements[, view])."""
    if isinstance(identity, tuple) and len(identity) in (5, 6):
        size = identity[5][2] if identity[5:] and identity[5] else identity[4]
        if type(size) is int and size >= 0:
            return Made('storage', size)
    raise ValueError('a storage in its pickle has no size')


def check_call(function, arguments):
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError('its pickle calls an object that is not a function')
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
        raise ValueError(f'its pickle calls {name} with arguments that torch.save never writes')


def fits(storage=None, offset=None, size=None, stride=None):
    """Whether a tensor fits inside its storage."""
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
        raise ValueError(f'its pickle sets the state of {made}, which torch.save never does')


def only_types(*kinds):
    return lambda arguments, found: found <= set(kinds)


RULES = {
    'builtins.bytearray': lambda arguments, _: all(type(a) is str or a == Made('_codecs.encode') for a in arguments),
    'builtins.set': only_types(list), 'builtins.complex': only_types(float),
    'collections.Counter': only_types(dict), 'collections.OrderedDict': only_types(list),
    'torch.Size': lambda arguments, _: all(isinstance(a, tuple) for a in arguments),
    'torch.device': only_types(str, int), 'torch.serialization._get_layout': only_types(str),
    '_codecs.encode': lambda arguments, _: len(arguments) == 2 and arguments[1] in LATIN,
    'numpy.dtype': lambda arguments, _: re.fullmatch(r'\W?[a-zA-Z]\d{0,4}', arguments[0]),
}
for core in ('core', '_core'):
    RULES[f'numpy.{core}.multiarray._reconstruct'] = lambda arguments, _: arguments[1] == (0,)  # BUILD fills it
    RULES[f'numpy.{core}.multiarray.scalar'] = lambda arguments, _: len(arguments) == 2
ALLOCATES = re.compile(r'torch\.[\w.]*(Tensor|Storage)|numpy\.ndarray')  # a direct call allocates memory
