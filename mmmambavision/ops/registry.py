"""One way to register, list, choose and force an implementation, for every operator."""
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch

from ..errors import UserError

OPERATORS: dict[str, 'Operator'] = {}  # by the word that `backend` takes
_ask = lru_cache(maxsize=None)(lambda unavailable: unavailable())


class Backend(NamedTuple):
    """An implementation: the function; why it cannot run in this process, asked once and at first use, since it may
    import a compiler; why it cannot take these inputs; whether 'auto' takes it where it can take them."""
    run: Callable
    unavailable: Callable[[], str | None] = lambda: None
    refuses: Callable[..., str | None] = lambda *inputs: None
    is_faster: Callable[..., bool] = lambda *inputs: True


class Operator:
    """The implementations of one operator by name, and the choice among them.

    Args:
        word: what `backend` calls it; in capitals the end of the environment variable that forces an implementation.
        name: of the public function, for messages.
        backends: `Backend` by name.
        preference: names that 'auto' tries, in this order; the last one takes all inputs.
    """

    def __init__(self, word: str, name: str, backends: dict[str, Backend], preference: Sequence[str]):
        self.variable, self.name, self.backends, self.preference = (
            f'MMMAMBAVISION_{word.upper()}', name, backends, preference)
        self.forced = 'auto'  # by `backend`
        OPERATORS[word] = self

    def available(self) -> dict[str, str | None]:
        """Implementations by name: None where one can run in this process, else the reason why it cannot."""
        return {name: self.absent(name) for name in self.backends}

    @torch.compiler.assume_constant_result  # torch.compile cannot trace the imports by which this is found out
    def absent(self, name: str) -> str | None:
        return _ask(self.backends[name].unavailable)

    def check(self, name: str) -> None:
        """Raise UserError unless `name` is 'auto' or an implementation, whether or not it can run here."""
        if not isinstance(name, str) or (name != 'auto' and name not in self.backends):
            raise UserError(f"{self.name} has no backend {name!r}: choose 'auto' or one of {', '.join(self.backends)}")

    def asked_for(self, name: str) -> str:
        """What the argument names, else `backend`, else the environment variable, else 'auto'."""
        name = self.forced if name == 'auto' else name
        name = os.environ.get(self.variable, 'auto') if name == 'auto' else name
        self.check(name)
        return name

    def best(self, *inputs) -> str:
        """The first of the preferred implementations that takes the inputs, can run here and is faster."""
        *names, last = self.preference
        for name in names:
            backend = self.backends[name]
            if not (backend.refuses(*inputs) or self.absent(name)) and backend.is_faster(*inputs):
                return name
        return last

    def require(self, name: str, *inputs) -> None:
        """Raise UserError with the reason if an implementation cannot run here or cannot take the inputs."""
        if reason := self.absent(name) or self.backends[name].refuses(*inputs):
            raise UserError(f"{self.name} cannot use its backend '{name}' here: {reason}")


@contextmanager
def backend(**names: str) -> Iterator[None]:
    """Force implementations: `with backend(scan='chunked', attention='torch', depthwise='shifted'): ...`.

    It holds for all threads, since autograd recomputes activations in threads of its own: put the backward pass inside,
    too. It wins over environment variables; the argument `backend` of a call (`scan_backend` of a model) wins over it.

    Raises:
        UserError: there is no such operator or implementation.
    """
    for word, name in names.items():
        if word not in OPERATORS:
            raise UserError(f"there is no operator {word!r}: choose among {', '.join(OPERATORS)}")
        OPERATORS[word].check(name)
    before = {word: OPERATORS[word].forced for word in names}
    try:
        for word, name in names.items():
            OPERATORS[word].forced = name
        yield
    finally:
        for word, name in before.items():
            OPERATORS[word].forced = name
