"""What the kernels that numba compiles for a CPU have in common: whether they can run, their files on disk, threads.

Threads come from a pool of our own and not from numba's: those cannot be used after a fork, which data loaders do.
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

TASKS_PER_THREAD = 4  # so that a thread that was held up does not keep the others waiting


def unavailable():
    """Why kernels cannot be compiled here, or None."""
    if not importlib.util.find_spec('numba'):
        return 'numba is not installed: pip install numba'
    try:
        importlib.import_module('numba')
    except Exception as error:  # it looks at the versions of others, and says so in errors of several kinds
        return f'numba does not load: {error}'
    return None


@cache
def jit_options():
    """Keyword arguments of `numba.njit` for a kernel: without Python's lock, kept on disk where that is possible."""
    return dict(nogil=True, cache=_can_cache(), error_model='numpy', boundscheck=False)


def _can_cache():
    """Whether numba finds a folder to keep compiled kernels in; where it does not, says so."""
    from numba import njit
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        _warn_of_no_cache('neither the folder of the package nor the home folder can be written to')
        return False
    return True


@cache
def _warn_of_no_cache(reason):
    warnings.warn('compiled kernels cannot be kept on disk, so every process compiles them again: '
                  f'{reason}. Set NUMBA_CACHE_DIR to a folder that can be written to', stacklevel=3)


def load_kernels(name, run_once):
    """A module of kernels, compiled; says so where that takes long.

    Args:
        name: the module's full name.
        run_once: function of the module that runs its kernels, which compiles them.
    """
    notice = Timer(1., lambda: logging.getLogger(name).warning(
        'compiling kernels for this CPU, which takes some seconds the first time'))
    notice.start()
    try:
        kernels = importlib.import_module(name)
        try:
            run_once(kernels)
        except (OSError, EOFError, pickle.UnpicklingError) as error:  # a full disk, or a file that was half written
            _forget_files(kernels, error)
            run_once(kernels)
    finally:
        notice.cancel()
    return kernels


def _forget_files(kernels, error):
    """Let a module's kernels be compiled without the files on disk, after an error with those, and say so."""
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
    """Run kernel(first, last, *arguments) on ranges that make up 0 to `tasks`, by as many threads as torch uses."""
    threads = max(1, min(torch.get_num_threads(), tasks))
    if threads == 1:
        return kernel(0, tasks, *arguments)
    parts = min(tasks, threads * TASKS_PER_THREAD)
    bounds = [tasks * i // parts for i in range(parts + 1)]
    pool = _pool(os.getpid(), threads)
    for future in [pool.submit(kernel, *pair, *arguments) for pair in pairwise(bounds)]:
        future.result()
