"""The registry of all operators: it lists, chooses and forces implementations."""
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..errors import UserError

OPERATORS: dict[str, 'Operator'] = {}  # by the keyword of `backend`
_ask = lru_cache(maxsize=None)(lambda unavailable: unavailable())


class Backend(NamedTuple):
    """An implementation of an operator.

    Attributes:
        run: the function.
        unavailable: returns the reason why it cannot run in this process, or None. It is called once, at first use,
            because it may import a compiler.
        refuses: returns the reason why it cannot process these inputs, or None.
        is_faster: whether 'auto' chooses it for inputs that it can process.
    """
    run: Callable[..., Any]
    unavailable: Callable[[], str | None] = lambda: None
    refuses: Callable[..., str | None] = lambda *inputs: None
    is_faster: Callable[..., bool] = lambda *inputs: True


class Operator:
    """One operator: its implementations by name, and the choice of one.

    Args:
        word: keyword of the operator in `backend`. In upper case, it ends the name of the environment variable.
        name: name of the public function, for messages.
        backends: `Backend` by name.
        preference: names that 'auto' tries, in this order. The last implementation accepts all inputs.
    """

    def __init__(self, word: str, name: str, backends: dict[str, Backend], preference: Sequence[str]):
        self.variable, self.name, self.backends, self.preference = (
            f'MMMAMBAVISION_{word.upper()}', name, backends, preference)
        self.forced = 'auto'  # set by `backend`
        OPERATORS[word] = self

    def available(self) -> dict[str, str | None]:
        """For each implementation: None if it can run in this process, otherwise the reason why it cannot."""
        return {name: self.absent(name) for name in self.backends}

    @torch.compiler.assume_constant_result  # torch.compile cannot trace imports
    def absent(self, name: str) -> str | None:
        return _ask(self.backends[name].unavailable)

    def check(self, name: str) -> None:
        """Raise UserError if `name` is not 'auto' or an implementation. The implementation may be unavailable."""
        if not isinstance(name, str) or (name != 'auto' and name not in self.backends):
            raise UserError(f"{self.name} has no backend {name!r}: choose 'auto' or one of {', '.join(self.backends)}")

    def asked_for(self, name: str) -> str:
        """The name from the argument, from `backend` or from the environment variable, in this order, or 'auto'."""
        name = self.forced if name == 'auto' else name
        name = os.environ.get(self.variable, 'auto') if name == 'auto' else name
        self.check(name)
        return name

    def best(self, *inputs: torch.Tensor) -> str:
        """The first implementation in `preference` that accepts the inputs, is available and is faster."""
        *names, last = self.preference
        for name in names:
            backend = self.backends[name]
            if not (backend.refuses(*inputs) or self.absent(name)) and backend.is_faster(*inputs):
                return name
        return last

    def require(self, name: str, *inputs: torch.Tensor) -> None:
        """Raise UserError with the reason if an implementation is not available or refuses the inputs."""
        if reason := self.absent(name) or self.backends[name].refuses(*inputs):
            raise UserError(f"{self.name} cannot use its backend '{name}' here: {reason}")


@contextmanager
def backend(**names: str) -> Iterator[None]:
    """Force implementations: `with backend(scan='chunked', attention='torch', depthwise='shifted'): ...`.

    The context applies to all threads, because autograd recomputes activations in its own threads. Call the backward
    pass inside it too. It overrides the environment variables. The argument `backend` of a call (of a model:
    `scan_backend`) overrides the context.

    Raises:
        UserError: the name of an operator or of an implementation is unknown.
    """
    for word, name in names.items():
        if word not in OPERATORS:
            raise UserError(f"there is no operator {word!r}: choose one of {', '.join(OPERATORS)}")
        OPERATORS[word].check(name)
    before = {word: OPERATORS[word].forced for word in names}
    try:
        for word, name in names.items():
            OPERATORS[word].forced = name
        yield
    finally:
        for word, name in before.items():
            OPERATORS[word].forced = name
