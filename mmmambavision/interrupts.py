"""Signals that end a training, and the exit status for each."""
import os
import signal

from .terminal import BY_HAND

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGINT') if hasattr(signal, name)]


def status_of(number):
    """Exit status of a training after a signal."""
    return BY_HAND if number == signal.SIGINT else TRY_AGAIN


def wanted():
    """The signals to handle. SIGINT is excluded if it is ignored, as shells do for background jobs of a script."""
    return [number for number in SIGNALS if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]


def before_training():
    """Handle signals before the first iteration: during imports, data checks and downloads."""
    for number in wanted():
        signal.signal(number, end_before_training)


def end_before_training(number, frame):
    print(f'ended by {signal.Signals(number).name} before the first iteration. Run the same command to start again',
          flush=True)
    os._exit(status_of(number))  # a library could catch an exception
