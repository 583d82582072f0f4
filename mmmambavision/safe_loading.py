"""Checkpoint files to dicts without running what a pickle may contain; installed as mmengine's own loaders on import.

mmengine 0.10.7 cannot read the checkpoints that it writes with torch 2.6 or later, the onedl fork reads what it
cannot check by unpickling everything, and both unpickle everything that comes by URL. Here one list of harmless
globals is allowed on every path, and whatever else a file asks for stops the load.
"""
import argparse
import hashlib
import pathlib
import pickle
import re
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer, print_log
from safetensors import SafetensorError
from safetensors.torch import load_file

from .checkpoints import backbone_weights, group_names, is_classifier
from .errors import UnreachableError, UserError

SUFFIXES = ('.safetensors', '.pth.tar', '.pth', '.pt')


def _history_buffer_method(obj, name):
    """What `builtins.getattr` is for in mmengine's checkpoints: naming four methods of HistoryBuffer, and no more."""
    if obj is HistoryBuffer and name in ('mean', 'max', 'min', 'current'):
        return getattr(obj, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({obj!r}, {name!r}) was not an allowed global')


def _allow_harmless_globals():
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    reconstruct, scalar = multiarray._reconstruct, multiarray.scalar
    dtypes = [type(np.dtype(kind)) for kind in '?bhilqBHILQefdgFDOSU']
    torch.serialization.add_safe_globals([
        HistoryBuffer, (_history_buffer_method, 'builtins.getattr'), np.ndarray, np.dtype, *dtypes,
        # numpy moved these between its versions 1 and 2; files of either are read with either.
        *[(function, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
          for name, function in (('_reconstruct', reconstruct), ('scalar', scalar))],
        # What training scripts of classification checkpoints store beside the weights.
        argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath])


def read_checkpoint(path, map_location='cpu'):
    """The contents of a checkpoint file: `.safetensors`, or anything that `torch.save` wrote.

    Raises:
        UserError: no such file, not a checkpoint, or one that needs a class which is not known to be harmless.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'checkpoint not found: {path}. Give the path of a file, a URL, or hf://owner/repository')
    try:
        if path.suffix == '.safetensors':
            return load_file(path, device=str(map_location or 'cpu'))
        return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, UnicodeDecodeError, ValueError, KeyError) as error:
        found = re.search(r'GLOBAL (\S+(?:\(.*?\))?) (?:was not an allowed|whose module)', str(error))
        if found:
            raise UserError(
                f'{path} was not loaded: it asks for {found[1]}, which is not on the list of harmless classes, and '
                'unpickling it could run code. If you trust its author, save the weights alone where it can be '
                'loaded: torch.save(checkpoint["state_dict"], ...)') from None
        raise UserError(f'{path} is not a checkpoint, or it is damaged or half written: {_first_line(error)}') from None


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def fetch_url(url):
    """Path of the file behind a URL, downloaded to torch's hub folder unless it is there already.

    Raises:
        UnreachableError: (a UserError) it cannot be had.
    """
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir(), 'checkpoints', f'{hashlib.sha1(url.encode()).hexdigest()[:8]}-{name}')
    return _main_process_first(lambda: _download(url, path))


def _download(url, path):
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except (URLError, OSError) as error:
            raise UnreachableError(f'could not download {url}: {error}') from None
    return path


def fetch_hf(name):
    """Path of a file on Hugging Face, `hf://owner/repository` (its one checkpoint) or `hf://owner/repository/file`.

    Raises:
        UserError: the name has another form, or the repository has no checkpoint or several.
        UnreachableError: (a UserError) it cannot be had.
    """
    owner, _, rest = name.removeprefix('hf://').partition('/')
    repository, _, file = rest.partition('/')
    if not owner or not repository:
        raise UserError(f'{name} is not of the form hf://owner/repository or hf://owner/repository/file')
    return _main_process_first(lambda: _hf_download(f'{owner}/{repository}', file))


def _hf_download(repository, file):
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


def _main_process_first(fetch):
    """Run `fetch` in the main process, then in the others, which find the file there on a shared disk."""
    path = fetch() if get_rank() == 0 else None
    barrier()
    return path or fetch()


def fetch(name):
    """Path of a checkpoint given as a path, a URL or hf://owner/repository; local paths are not looked at."""
    if name.startswith('hf://'):
        return fetch_hf(name)
    return fetch_url(name) if name.startswith(('http://', 'https://')) else name


def load_from_disk_or_url(filename, map_location='cpu', **_):
    """mmengine's loader for paths, URLs and hf:// names.

    A released classifier comes as the state dict of a model whose `backbone` it is: OpenMMLab's models call it so, and
    `MambaVision` by itself takes it too.
    """
    checkpoint = read_checkpoint(fetch(filename), map_location)
    if not is_classifier(checkpoint):
        return checkpoint
    weights, rest = backbone_weights(checkpoint)
    print_log(f'{filename}: a classifier; took the {len(weights)} tensors of its backbone, left out {group_names(rest)}',
              logger='current')
    return dict(state_dict={f'backbone.{name}': value for name, value in weights.items()}, meta={})


def install():
    """Make mmengine read checkpoints through this module."""
    _allow_harmless_globals()
    mmengine_checkpoint.CheckpointLoader.register_scheme(
        ('', 'http://', 'https://', 'hf://'), load_from_disk_or_url, force=True)
    # Behind torchvision:// and the other names that stand for URLs.
    mmengine_checkpoint.load_from_http = load_from_disk_or_url
