"""A path, URL or hf:// name to the contents of a checkpoint, without running what a pickle may contain."""
import argparse
import hashlib
import io
import logging
import os
import pathlib
import re
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import numpy as np
import torch
import torch.distributed as dist
from filelock import FileLock

from ..errors import UnreachableError, UserError, not_the_file
from .pickles import check_pickle

logger = logging.getLogger(__name__)
MAIN_KEYS = ('state_dict', 'model')  # under which weights are, the first in the place of others
OF_OPTIMIZERS = re.compile(r'optim|exp_avg|rng|scaler|(lr_)?scheduler', re.I)  # keys of what holds no weights
DEPTH = 20  # of dicts in dicts
SUFFIXES = ('.safetensors', '.pth.tar', '.pth', '.pt')


def load_checkpoint(name: str | os.PathLike[str], map_location: Any = 'cpu') -> dict[str, Any]:
    """The contents of a checkpoint by its path, URL or hf:// name; see `fetch` and `read_checkpoint`.

    'NAME#KEY' takes the weights under KEY of a file that holds several, such as 'FILE#state_dict_ema': a key of its
    contents, or what the names of the tensors begin with.

    Raises:
        UserError: the file holds no weights by name, or none under that key; names the keys that it has.
    """
    name, key = split_key(name)
    checkpoint = read_checkpoint(fetch(name), map_location)
    tensors = tensors_of(checkpoint)
    if not key:
        keys = [key for key, value in checkpoint.items() if isinstance(value, dict) and tensors_of({key: value})]
        if len(keys) > 1:
            logger.info('%s holds weights under %s; KEY in %s#KEY names those to take', name, ', '.join(keys), name)
        return checkpoint
    if isinstance(checkpoint.get(key), dict):
        chosen = tensors_of(checkpoint[key])
    else:
        chosen = {path[len(key) + 1:]: value for path, value in tensors.items() if path.startswith(f'{key}.')}
    if not chosen:
        keys = [key for key, value in checkpoint.items() if isinstance(value, dict) and tensors_of(value)]
        raise UserError(f'{name} holds no weights under the key {key}; it has '
                        f"{', '.join(keys or sorted({path.split('.')[0] for path in tensors})) or 'none'}")
    rest = {k: v for k, v in checkpoint.items() if not (isinstance(v, dict) and any(map(torch.is_tensor, v.values())))}
    return {**rest, 'state_dict': chosen}


def split_key(name: str | os.PathLike[str]) -> tuple[str, str]:
    """('NAME', 'KEY') of a checkpoint's name 'NAME#KEY'; KEY is empty where there is none."""
    name, _, key = (str(name), '', '') if os.path.exists(name) else str(name).partition('#')
    return name, key


def tensors_of(checkpoint: Any) -> dict[str, torch.Tensor]:
    """All tensors in the contents of a checkpoint file, also those in dicts of dicts, by name.

    A name begins with the keys of the dicts that the tensor is in, except for the first of MAIN_KEYS that there is;
    what wrappers of modules put into names is left out, and so are the tensors of optimizers.

    Raises:
        UserError: the contents are no dict.
    """
    if not isinstance(checkpoint, dict):
        raise UserError(f'the checkpoint holds no weights by name: it is a {type(checkpoint).__name__}')
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()

    def collect(node: dict[Any, Any], path: str, depth: int = 0) -> None:
        if id(node) in seen or depth > DEPTH:  # a pickle's dict may be in itself
            return
        seen.add(id(node))
        main = next((key for key in MAIN_KEYS if isinstance(node.get(key), dict) and node[key]), None)
        if main:
            collect(node[main], path, depth + 1)
        for key, value in node.items():
            if torch.is_tensor(value) and isinstance(key, str):
                tensors.setdefault(path + key, value)
            elif isinstance(value, dict) and isinstance(key, str) and not OF_OPTIMIZERS.match(key):
                collect(value, f'{path}{key}.', depth + 1)

    collect(checkpoint, '')
    return without_wrappers(tensors)


def without_wrappers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by the names that they have without torch.compile and torch's wrappers for sharding and checkpointing."""
    wrapped = re.compile(r'(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
    if not any(isinstance(name, str) and wrapped.search(name) for name in state):
        return state
    return {wrapped.sub(r'\1', name) if isinstance(name, str) else name: value for name, value in state.items()}


def fetch(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Path of a checkpoint given as a path, a URL, hf://owner/repository (its one checkpoint) or
    hf://owner/repository/file; local paths are not looked at.

    One process of a machine downloads while the others wait. In a process group all have to call this, and if any of
    them cannot have the file, all of them raise its error.

    Raises:
        UserError: an hf:// name of another form, or a repository with no checkpoint or several.
        UnreachableError: (a UserError) a file that cannot be downloaded.
    """
    address, path, error = str(name), name, None
    if not address.startswith(('hf://', 'http://', 'https://')):
        return name
    try:
        path = _from_hf(address) if address.startswith('hf://') else _from_url(address)
    except UserError as caught:
        error = caught
    except Exception as caught:  # of any library on the way: whatever it is, all processes have to hear of it
        error = UnreachableError(f'could not download {name}: {type(caught).__name__}: {_first_line(caught)}')
    if error := _first_of_all_processes(error):
        raise error
    return path


def _first_of_all_processes(error: UserError | None) -> UserError | None:
    """An error that any process of the group has, or None."""
    if not (dist.is_available() and dist.is_initialized()):
        return error
    errors = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error)
    return next(filter(None, errors), None)


def _from_url(url: str) -> Path:
    """Path of the file behind a URL, downloaded to torch's hub folder unless it is there already."""
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir(), 'checkpoints', f'{hashlib.sha1(url.encode()).hexdigest()[:8]}-{name}')
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):
            if not path.exists():
                part = f'{path}.part'
                torch.hub.download_url_to_file(url, part)
                _check_length(url, part)
                os.replace(part, path)
    except (URLError, OSError) as error:
        raise UnreachableError(f'could not download {url}: {_first_line(error)}') from None
    return path


def _check_length(url: str, file: str) -> None:
    """See that a downloaded file is whole, which torch does not, as far as the server says how long it is."""
    try:
        with urlopen(Request(url, method='HEAD'), timeout=60) as response:
            expected = response.headers.get('Content-Length')
    except (URLError, HTTPException, OSError):
        return
    size = Path(file).stat().st_size
    if expected and size != int(expected):
        os.remove(file)
        raise OSError(f'the connection ended after {size} of {expected} bytes; try again')


def _from_hf(name: str) -> str:
    """Path of a file in Hugging Face's cache, downloaded unless it is there already."""
    owner, _, rest = name.removeprefix('hf://').partition('/')
    repository, _, file = rest.partition('/')
    if not owner or not repository:
        raise UserError(f'{name} is not of the form hf://owner/repository or hf://owner/repository/file')
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f'{name} is a name on Hugging Face, which needs: pip install huggingface_hub') from None
    repository = f'{owner}/{repository}'
    try:
        try:
            return hf_hub_download(repository, file or 'model.safetensors')
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            files = HfApi().list_repo_files(repository)
            candidates = [f for f in files if f.endswith(SUFFIXES)]
            if file or len(candidates) != 1:
                raise UserError(f"{repository} has no {file or 'single checkpoint'}; name one of its files: "
                                f"hf://{repository}/{{{','.join(candidates)}}}") from None
            return hf_hub_download(repository, candidates[0])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(f'could not download {repository} from Hugging Face: {_first_line(error)}') from None


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = 'cpu') -> dict[str, Any]:
    """The contents of a checkpoint file: `.safetensors`, or anything that `torch.save` wrote.

    The checksums of a zip file, which torch has written since its version 1.6, are compared with its contents; the
    other forms have none, so that a changed weight in them is not seen.

    Args:
        path: the file.
        map_location: as of `torch.load`: a device, a dict or a function.

    Raises:
        UnreachableError: (a UserError) no such file.
        UserError: not a checkpoint, or one that needs a class which is not known to be harmless.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UnreachableError(f'checkpoint not found: {path}. Give the path of a file, a URL, or '
                               'hf://owner/repository')
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path, map_location)
        # Each time: a `safe_globals` context of others, such as timm's, takes its classes away for good.
        _allow_harmless_globals()
        _check_before_unpickling(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever a reader of zip files, of pickles or of tensors stumbles over
        found = re.search(r'GLOBAL (\S+(?:\(.*?\))?) (?:was not an allowed|whose module)', str(error))
        if found:
            raise UserError(
                f'{path} was not loaded: it asks for {found[1]}, which is not on the list of harmless classes, and '
                'unpickling it could run code. If you trust the class, allow it: '
                f'torch.serialization.add_safe_globals([{found[1].split(".")[-1]}]). If you trust the author, save the '
                'weights alone where the file can be loaded: torch.save(checkpoint["state_dict"], ...)') from None
        raise UserError(f'{path} is not a checkpoint, or it is damaged or half written: '
                        f'{_pointer(path) or _first_line(error)}') from None


def _check_before_unpickling(path: Path) -> None:
    """See that a file of `torch.save` is whole, and that reading it takes no more memory than its size allows for.

    Raises:
        ValueError: what is wrong; zipfile and pickletools raise others.
    """
    with open(path, 'rb') as file:
        if file.read(4) != b'PK\x03\x04':
            file.seek(0)
            for _ in range(5):  # of the form before: magic number, version, system, contents, names of storages
                check_pickle(file)
            return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise ValueError('it declares more contents than it holds')
        if len({record.filename.lower() for record in records}) < len(records):  # all alike to torch's reader
            raise ValueError('it holds two records of one name')
        if damaged := archive.testzip():
            raise ValueError(f'the checksum of its record {damaged} is another than when it was written')
        for record in records:
            if record.filename.lower().endswith('data.pkl'):
                check_pickle(io.BytesIO(archive.read(record)))


def _read_safetensors(path: Path, map_location: Any) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f'{path} needs: pip install safetensors') from None
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if map_location is None or str(map_location) == 'cpu':
        return tensors
    if callable(map_location):  # of storages, and None for where they are
        devices = {name: getattr(map_location(t.untyped_storage(), 'cpu'), 'device', 'cpu')
                   for name, t in tensors.items()}
    else:
        device = map_location.get('cpu', 'cpu') if isinstance(map_location, dict) else map_location
        devices = dict.fromkeys(tensors, device)
    return {name: tensor.to(devices[name]) for name, tensor in tensors.items()}


def _pointer(path: Path) -> str | None:
    with open(path, 'rb') as file:
        return not_the_file(file.read(64))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _allow_harmless_globals() -> None:
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray  # type: ignore[attr-defined]
    dtypes = [type(np.dtype(kind)) for kind in '?bhilqBHILQefdgFDOSU']
    torch.serialization.add_safe_globals([
        np.ndarray, np.dtype, *dtypes,
        # numpy moved these between its versions 1 and 2; files of either are read with either.
        *[(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
          for name in ('_reconstruct', 'scalar')],
        # What training scripts of classification checkpoints store beside the weights.
        argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath])
