"""Files that are not what they say, drawn from a seed, and a process that reads them."""
import argparse
import io
import json
import os
import random
import resource
import signal
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save

from mmmambavision.checkpoints.files import read_checkpoint
from mmmambavision.errors import UserError

HUGE = 3 * 10 ** 9
SECONDS = 10  # for one file


def contents():
    torch.manual_seed(0)
    weights = OrderedDict((f'layer{i}.weight', torch.randn(40, 10 + i).to(kind)) for i, kind in enumerate(
        (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8)))
    weights['view'] = weights['layer0.weight'][3:9].T
    weights['parameter'] = torch.nn.Parameter(torch.randn(5))
    return dict(state_dict=weights, meta=dict(epoch=3, classes=('a', 'b'), palette=[(1, 2, 3)], mean=np.arange(5.)),
                optimizer=dict(state={0: dict(step=torch.tensor(3.), exp_avg=torch.randn(40, 10))}),
                metric=np.float64(82.3), args=argparse.Namespace(lr=.005), raw=b'\x00\xff', array=bytearray(b'a\xff'))


def originals():
    """The same weights in every form of file."""
    whole, old, data = io.BytesIO(), io.BytesIO(), contents()
    torch.save(data, whole)
    torch.save(data, old, _use_new_zipfile_serialization=False)
    tensors = {name: value.detach().clone().contiguous() for name, value in data['state_dict'].items()}
    return dict(zip=whole.getvalue(), old=old.getvalue(), safetensors=save(tensors))


def mutate(data, draw):
    """One or a few accidents to the bytes of a file."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at, length = draw.randrange(len(data)), draw.choice((1, 4, 8, 64, 512, 5000))
        to = draw.randrange(len(data))
        kind = draw.randrange(9)
        if kind <= 1:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del data[max(at, 1):]
        elif kind == 3:
            data[at:at + length] = draw.randbytes(len(data[at:at + length]))
        elif kind == 4:
            data[at:at + length] = bytes([draw.choice((0, 255))]) * len(data[at:at + length])
        elif kind == 5:
            data[to:to] = data[at:at + length]
        elif kind == 6 and len(data) > length:
            del data[at:at + length]
        elif kind == 7:  # a size in the header of a record, of the whole or of safetensors
            mark = data.find(draw.choice((b'PK\1\2', b'PK\3\4', b'PK\5\6', b'PK\6\6')), at)
            start = max(mark, 0) + draw.randrange(48)
            size = draw.choice((0, 1, 2 ** 31, 2 ** 32 - 1, draw.randrange(2 ** 20)))
            data[start:start + 4] = size.to_bytes(4, 'little')
        else:
            data[at:at + length], data[to:to + length] = data[to:to + length], data[at:at + length]
    return bytes(data)


def archive(records, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', method) as out:
        for name, data in records:
            out.writestr(name, data)
    return file.getvalue()


def rezip(data, draw):
    """A zip file that is in order, of records that are not."""
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        records = [(name, whole.read(name)) for name in whole.namelist()]
    one, other = draw.sample(range(len(records)), 2)
    kind = draw.randrange(6)
    if kind == 0:
        records[one], records[other] = (records[one][0], records[other][1]), (records[other][0], records[one][1])
    elif kind == 1:
        del records[one]
    elif kind == 2:
        records[one] = (records[one][0], mutate(records[one][1], draw))
    elif kind == 3:
        records[0] = (records[0][0], mutate(records[0][1], draw))  # its pickle
    elif kind == 4:
        records[one] = (records[one][0], bytes(HUGE // 100))
        return archive(records, zipfile.ZIP_DEFLATED)
    else:
        records.append((records[one][0].upper(), records[other][1]))
    return archive(records)


def name(text):
    return b'c' + text.replace(' ', '\n').encode() + b'\n'


def string(text):
    return b'X' + struct.pack('<I', len(text)) + text.encode()


def number(value):
    return b'\x8a\x08' + value.to_bytes(8, 'little', signed=True)


def tensor(offset, size, stride, elements=100):
    storage = (b'(' + string('storage') + name('torch FloatStorage') + string('0') + string('cpu') + number(elements)
               + b'tQ')
    return (name('torch._utils _rebuild_tensor_v2') + b'(' + storage + number(offset) + number(size) + b'\x85'
            + number(stride) + b'\x85\x89NtR')


def pickles(canary):
    """Pickles that run code, take memory or time, or read where nothing is."""
    run = string(f'open({canary!r}, "w")')
    huge = number(HUGE) + b'\x85'
    bodies = [
        name('posix mkdir') + string(canary) + b'\x85R', name('os mkdir') + string(canary) + b'\x85R',
        name('builtins eval') + run + b'\x85R', name('__builtin__ eval') + run + b'\x85R',
        string('builtins') + string('eval') + b'\x93' + run + b'\x85R',  # STACK_GLOBAL
        b'(' + run + b'i' + name('builtins eval')[1:],  # INST
        b'(' + name('builtins eval') + run + b'o',  # OBJ
        name('argparse Namespace') + b')R}' + string('__class__') + name('builtins eval') + b'sb',  # BUILD
        name('builtins getattr') + name('builtins object') + string('__subclasses__') + b'\x86R)R',
        name('torch.hub load') + string(canary) + b'\x85R', name('numpy load') + string(canary) + b'\x85R',
        name('torch.storage _load_from_bytes') + run + b'\x85R', name('pathlib PosixPath') + huge + b'R',
        name('torch._tensor _rebuild_from_type_v2') + b'(' + name('builtins eval') + b'N' + run + b'\x85NtR',
        name('builtins bytearray') + huge + b'R', name('__builtin__ bytearray') + huge + b'R',
        name('torch._tensor _rebuild_from_type_v2') + b'(' + name('builtins bytearray') + b'N' + huge + b'NtR',
        name('numpy ndarray') + number(HUGE // 10) + string('O') + b'\x86R', name('numpy ndarray') + huge + b'\x85R',
        name('torch Tensor') + huge + b'R', name('torch FloatTensor') + huge + b'\x81',
        name('builtins set') + name('torch Tensor') + huge + b'R\x85R',
        name('collections Counter') + tensor(0, HUGE, 0) + b'\x85R',
        name('torch Size') + tensor(0, HUGE, 0) + b'\x85R', name('torch.storage UntypedStorage') + huge + b'R',
        tensor(0, 100, 1, HUGE), tensor(0, HUGE, 1), tensor(-50, 10, 1), tensor(10, 10, -1), tensor(95, 10, 1),
        tensor(0, 100, 1, -1), tensor(0, 101, 1, 101), name('_codecs encode') + string('x') + string('hex') + b'\x86R',
        b'}N' + b'q\x01h\x01\x86' * 40 + b'Ns', b'N' + b'\x85' * 300000, b']' + b'q\x01h\x01a' * 1000,
        b'(' * 100000, b'Nr\xff\xff\xff\xff', b'X\xff\xff\xff\x7fabc', b'\x8d' + struct.pack('<Q', 2 ** 62),
        b'\x8b' + struct.pack('<i', 2 ** 31 - 1), b'R', b'0', b't', b'', b'Q', b'b', b'h\x07', b'NNs', b'Na',
        name('numpy dtype') + string('f8') + b'\x89\x88\x87R(K\x03' + string('<') + b'N' + string('a') + b'\x85}'
        + string('a') + name('numpy dtype') + string('f8') + b'\x85R' + number(10 ** 6) + b'\x86sK\x08K\x08K\x00tb',
        name('numpy dtype') + string('S3000000000') + b'\x85R',
    ]
    return [b'\x80\x02' + body + b'.' for body in bodies]


def crafted(canary):
    """(suffix, bytes) of files made to do harm."""
    files = []
    for pickle in pickles(canary):
        files.append(('pth', archive([('x/data.pkl', pickle), ('x/version', '3\n'), ('x/byteorder', 'little'),
                                      ('x/data/0', bytes(400))])))
        files.append(('pth', archive([('x/DATA.PKL', pickle), ('x/version', '3\n'), ('x/data/0', bytes(400))])))
        start = io.BytesIO()
        torch.save(0, start, _use_new_zipfile_serialization=False)
        files.append(('pth', start.getvalue().replace(b'\x80\x02K\x00.', pickle)))
    for header in (b'{}', b'[' * 100000, b'{"a":' * 100000, b'{"a":{"dtype":"F32","shape":[1000000000000],'
                   b'"data_offsets":[0,4000000000000]}}', b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
                   b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
                   b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],'
                   b'"data_offsets":[0,4]}}', b'{"a":{"dtype":"X","shape":[1],"data_offsets":[0,4]}}', b'\xff\xfe'):
        for length in (len(header), 2 ** 62, 2 ** 63, 99 * 10 ** 6, 0):
            files.append(('safetensors', struct.pack('<Q', length) + header + bytes(4)))
    return files


def corpus(folder, count, seed=0):
    """Write files; returns {path: whether it may have contents other than the original's}."""
    draw, base, files = random.Random(seed), originals(), {}
    made = [(suffix, data, True) for suffix, data in crafted(str(folder / 'canary'))]
    draw.shuffle(made)
    made = made[:count // 2]
    while len(made) < count:
        form = draw.choice(('zip', 'zip', 'zip', 'rezip', 'rezip', 'old', 'safetensors'))
        if form == 'rezip':
            made.append(('pth', rezip(base['zip'], draw), True))
        else:
            suffix = 'safetensors' if form == 'safetensors' else 'pth'
            made.append((suffix, mutate(base[form], draw), form != 'zip'))
    for index, (suffix, data, other) in enumerate(made):
        path = folder / f'{index}.{suffix}'
        path.write_bytes(data)
        files[str(path)] = other
    return files


def digest(value):
    """Text that is the same for the same contents alone."""
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f'{type(value).__name__} {value.dtype} {tuple(value.shape)} {raw.hex()}'
    if isinstance(value, dict):
        return f'{type(value).__name__} {[(key, digest(part)) for key, part in value.items()]}'
    if isinstance(value, (list, tuple)):
        return f'{type(value).__name__} {[digest(part) for part in value]}'
    return f'{type(value).__name__} {value!r}'


def touch(value, seen):
    """Read all numbers of all tensors."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, torch.Tensor) and value.numel() < 10 ** 6:
        value.detach().double().sum()
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        touch(part, seen)


def outcome(path, original, other):
    try:
        value = read_checkpoint(path)
    except UserError:
        return 'refused'
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    if other:
        touch(value, {})
        return 'read'
    return 'same' if digest(value) == original else 'differs'


def read_all(files, report):
    """Read files in a process of its own, which a crash or a hang ends; writes {path: outcome} and its memory."""
    original = digest(contents())
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open('/proc/self/statm') as memory:
            used = int(memory.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 ** 31,) * 2)  # a bomb shall not fill the machine
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open(report, 'w') as out:
            for path, other in files.items():
                signal.setitimer(signal.ITIMER_REAL, SECONDS)
                print(json.dumps([path, outcome(path, original, other),
                                  (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]),
                      file=out, flush=True)
        status = 0
    finally:
        os._exit(status)
