"""Compilation, caching and threads of the CPU kernels that numba compiles.

We use our own thread pool. numba's thread pool cannot be used after a fork, and data loaders fork.
"""
import importlib
import importlib.util
import logging
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from threading import Timer

import torch

TASKS_PER_THREAD = 4  # balances the load if one thread is slower


def unavailable():
    """The reason why numba cannot compile kernels in this process, or None."""
    if not importlib.util.find_spec('numba'):
        return 'numba is not installed: pip install numba'
    try:
        importlib.import_module('numba')
    except Exception as error:  # numba checks the versions of other packages and raises errors of several types
        return f'numba cannot be imported: {error}'
    return None


@cache
def jit_options():
    """Keyword arguments of `numba.njit` for a kernel: it releases the GIL, and is cached on disk if possible."""
    return dict(nogil=True, cache=_can_cache(), error_model='numpy', boundscheck=False)


def _can_cache():
    """Whether numba finds a writable folder for its cache. Warns if it does not."""
    from numba import njit
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        _warn_of_no_cache("the package's folder and the home folder are not writable")
        return False
    return True


@cache
def _warn_of_no_cache(reason):
    warnings.warn('compiled kernels cannot be cached on disk, so every process compiles them again: '
                  f'{reason}. Set NUMBA_CACHE_DIR to a writable folder', stacklevel=3)


def load_kernels(name, run_once):
    """Import a module of kernels and compile them. Logs a message if this takes longer than a second.

    Args:
        name: the module's full name.
        run_once: function of the module. It runs all kernels once, so that numba compiles them.
    """
    notice = Timer(1., lambda: logging.getLogger(name).warning(
        'compiling kernels for this CPU, which takes some seconds the first time'))
    notice.start()
    try:
        kernels = importlib.import_module(name)
        try:
            run_once(kernels)
        except (OSError, EOFError, pickle.UnpicklingError) as error:  # a full disk, or a truncated cache file
            _forget_files(kernels, error)
            run_once(kernels)
    finally:
        notice.cancel()
    return kernels


def _forget_files(kernels, error):
    """After an error with cache files, turn off the cache of a module's kernels, with a warning."""
    from numba.core.caching import NullCache
    from numba.core.dispatcher import Dispatcher
    _warn_of_no_cache(str(error))
    for function in vars(kernels).values():
        if isinstance(function, Dispatcher):
            function._cache = NullCache()


@lru_cache(maxsize=1)
def _pool(process, threads):
    return ThreadPoolExecutor(threads)


def in_parallel(kernel, tasks, *arguments):
    """Split the range from 0 to `tasks`, and run kernel(first, last, *arguments) for each part in torch's number of
    threads."""
    threads = max(1, min(torch.get_num_threads(), tasks))
    if threads == 1:
        return kernel(0, tasks, *arguments)
    parts = min(tasks, threads * TASKS_PER_THREAD)
    bounds = [tasks * i // parts for i in range(parts + 1)]
    pool = _pool(os.getpid(), threads)
    for future in [pool.submit(kernel, *pair, *arguments) for pair in pairwise(bounds)]:
        future.result()
