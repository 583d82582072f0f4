"""The signals that end a training, and with which status, before mmengine is there and after."""
import os
import signal

from .terminal import BY_HAND

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGINT') if hasattr(signal, name)]


def status_of(number):
    """Exit status of a training that a signal has ended."""
    return BY_HAND if number == signal.SIGINT else TRY_AGAIN


def wanted():
    """The signals to obey: not SIGINT where this process was started with it ignored, as shells do to what runs in the
    background of a script."""
    return [number for number in SIGNALS if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]


def before_training():
    """Have the signals end this process as before the first iteration, while it imports, checks data or downloads
    weights."""
    for number in wanted():
        signal.signal(number, end_before_training)


def end_before_training(number, frame):
    print(f'ended by {signal.Signals(number).name} before the first iteration: the same command starts again',
          flush=True)
    os._exit(status_of(number))  # an exception would be raised anywhere, and be caught by some library
