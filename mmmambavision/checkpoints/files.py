"""Find, download and read checkpoints safely: loading a file never runs code from its pickle."""
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
MAIN_KEYS = ('state_dict', 'model')  # keys of the weights, in order of priority
OF_OPTIMIZERS = re.compile(r'optim|exp_avg|rng|scaler|(lr_)?scheduler', re.I)  # keys of training state, not weights
DEPTH = 20  # maximum depth of nested dicts
SUFFIXES = ('.safetensors', '.pth.tar', '.pth', '.pt')


def load_checkpoint(name: str | os.PathLike[str], map_location: Any = 'cpu') -> dict[str, Any]:
    """Load a checkpoint from a path, URL or hf:// name. See `fetch` and `read_checkpoint`.

    'NAME#KEY' selects one set of weights from a file that holds several, for example 'FILE#state_dict_ema'. KEY is a
    key of the file's dict, or a prefix of the tensor names.

    Raises:
        UserError: the file is not a dict, or it has no weights under KEY. The message lists the available keys.
    """
    name, key = split_key(name)
    checkpoint = read_checkpoint(fetch(name), map_location)
    tensors = tensors_of(checkpoint)
    if not key:
        keys = [key for key, value in checkpoint.items() if isinstance(value, dict) and tensors_of({key: value})]
        if len(keys) > 1:
            logger.info('%s holds weights under %s; select one with %s#KEY', name, ', '.join(keys), name)
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
    """Split 'NAME#KEY' into ('NAME', 'KEY'). KEY is empty if the name has none."""
    name, _, key = (str(name), '', '') if os.path.exists(name) else str(name).partition('#')
    return name, key


def tensors_of(checkpoint: Any) -> dict[str, torch.Tensor]:
    """Collect all tensors of a checkpoint by name, including tensors in nested dicts.

    The keys of the enclosing dicts become the prefix of a name, except the first of MAIN_KEYS that exists. Prefixes of
    module wrappers are removed. Optimizer tensors are skipped.

    Raises:
        UserError: the checkpoint is not a dict.
    """
    if not isinstance(checkpoint, dict):
        raise UserError(f'the checkpoint holds no weights by name: it is a {type(checkpoint).__name__}, not a dict')
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()

    def collect(node: dict[Any, Any], path: str, depth: int = 0) -> None:
        if id(node) in seen or depth > DEPTH:  # a dict in a pickle can contain itself
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
    """Remove the prefixes of torch.compile, FSDP and activation checkpointing from tensor names."""
    wrapped = re.compile(r'(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
    if not any(isinstance(name, str) and wrapped.search(name) for name in state):
        return state
    return {wrapped.sub(r'\1', name) if isinstance(name, str) else name: value for name, value in state.items()}


def fetch(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Download a checkpoint if necessary and return its local path.

    The name is a local path, a URL, hf://owner/repository (with exactly one checkpoint) or
    hf://owner/repository/file. A local path is returned without a check that the file exists.

    One process per machine downloads while the others wait. All processes of a process group must call this. If one
    process fails, all processes raise its error.

    Raises:
        UserError: the hf:// name has a wrong form, or the repository has no checkpoint or several.
        UnreachableError: (a UserError) the file cannot be downloaded.
    """
    address, path, error = str(name), name, None
    if not address.startswith(('hf://', 'http://', 'https://')):
        return name
    try:
        path = _from_hf(address) if address.startswith('hf://') else _from_url(address)
    except UserError as caught:
        error = caught
    except Exception as caught:  # any error of any library, because all processes must receive it
        error = UnreachableError(f'could not download {name}: {type(caught).__name__}: {_first_line(caught)}')
    if error := _first_of_all_processes(error):
        raise error
    return path


def _first_of_all_processes(error: UserError | None) -> UserError | None:
    """The first error among all processes of the group, or None."""
    if not (dist.is_available() and dist.is_initialized()):
        return error
    errors = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error)
    return next(filter(None, errors), None)


def _from_url(url: str) -> Path:
    """Download a URL to torch's hub folder, unless the file exists, and return the path."""
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
    """Compare a downloaded file with the server's Content-Length, because torch does not check it."""
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
    """Download a file to Hugging Face's cache, unless it exists, and return the path."""
    owner, _, rest = name.removeprefix('hf://').partition('/')
    repository, _, file = rest.partition('/')
    if not owner or not repository:
        raise UserError(f'{name} is not of the form hf://owner/repository or hf://owner/repository/file')
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f'{name} is a Hugging Face name. To download it: pip install huggingface_hub') from None
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
    """Read a checkpoint file: `.safetensors`, or a file from `torch.save`.

    The zip format of torch 1.6 and later has checksums, and this function verifies them. The older format and
    `.safetensors` have no checksums, so a changed weight is not detected there.

    Args:
        path: the file.
        map_location: as in `torch.load`: a device, a dict or a function.

    Raises:
        UnreachableError: (a UserError) the file does not exist.
        UserError: the file is not a checkpoint, or it needs a class that is not on the allow-list.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UnreachableError(f'checkpoint not found: {path}. Give the path of a file, a URL, or '
                               'hf://owner/repository')
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path, map_location)
        # Repeat this for each file: a `safe_globals` context of another library, for example timm, removes our classes.
        _allow_harmless_globals()
        _check_before_unpickling(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # zipfile, pickletools and torch raise many types of errors for damaged files
        found = re.search(r'GLOBAL (\S+(?:\(.*?\))?) (?:was not an allowed|whose module)', str(error))
        if found:
            raise UserError(
                f'{path} was not loaded: it needs {found[1]}, which is not on the allow-list and could run code. '
                'If you trust it, call '
                f'torch.serialization.add_safe_globals([{found[1].split(".")[-1]}]), or ask the author for a file with '
                'only the weights: torch.save(checkpoint["state_dict"], ...)') from None
        raise UserError(f'{path} is not a checkpoint, or it is damaged or incomplete: '
                        f'{_pointer(path) or _first_line(error)}') from None


def _check_before_unpickling(path: Path) -> None:
    """Check that a file from `torch.save` is complete, and that loading it needs no more memory than its size.

    Raises:
        ValueError: the file is not valid. zipfile and pickletools raise their own errors.
    """
    with open(path, 'rb') as file:
        if file.read(4) != b'PK\x03\x04':
            file.seek(0)
            for _ in range(5):  # legacy format: magic number, version, system, contents, storage names
                check_pickle(file)
            return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise ValueError('it declares more contents than it holds')
        if len({record.filename.lower() for record in records}) < len(records):  # torch's reader ignores case
            raise ValueError('it holds two records with the same name')
        if damaged := archive.testzip():
            raise ValueError(f'the checksum of its record {damaged} is wrong')
        for record in records:
            if record.filename.lower().endswith('data.pkl'):
                check_pickle(io.BytesIO(archive.read(record)))


def _read_safetensors(path: Path, map_location: Any) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f'to read {path}: pip install safetensors') from None
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if map_location is None or str(map_location) == 'cpu':
        return tensors
    if callable(map_location):  # it returns a storage, or None to keep the device
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
        # NumPy 2 moved these functions. Files from NumPy 1 and 2 load with both versions.
        *[(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
          for name in ('_reconstruct', 'scalar')],
        # Training scripts for classification store these next to the weights.
        argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath])
