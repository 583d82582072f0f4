"""Forcing implementations: what wins over what, for how long, and errors."""
import threading

import pytest
import torch

from mmmambavision import ops
from mmmambavision.errors import UserError
from mmmambavision.ops.registry import OPERATORS


@pytest.mark.parametrize('word', OPERATORS)
def test_argument_wins_over_context_and_context_over_environment(monkeypatch, word):
    operator = OPERATORS[word]
    monkeypatch.delenv(operator.variable, raising=False)
    first, second, third, *_ = operator.backends
    assert operator.asked_for('auto') == 'auto'
    monkeypatch.setenv(operator.variable, first)
    assert operator.asked_for('auto') == first
    with ops.backend(**{word: second}):
        seen = []
        thread = threading.Thread(target=lambda: seen.append(operator.asked_for('auto')))
        thread.start()
        thread.join()
        assert seen == [second] and operator.asked_for(third) == third
        with pytest.raises(RuntimeError), ops.backend(**{word: third}):  # noqa: PT012 (the block is what raises)
            assert operator.asked_for('auto') == third
            raise RuntimeError
        assert operator.asked_for('auto') == second
    assert operator.asked_for('auto') == first


def test_context_reaches_operators(monkeypatch):
    x, weight, taken = torch.randn(1, 5, 4), torch.randn(4, 1, 3), []
    shifted = OPERATORS['depthwise'].backends['shifted']
    monkeypatch.setitem(OPERATORS['depthwise'].backends, 'shifted', shifted._replace(
        run=lambda *given: taken.append(1) or shifted.run(*given)))
    with ops.backend(scan='reference', depthwise='shifted', attention='reference'):
        ops.depthwise_silu(x, weight)
        ops.depthwise_silu(x, weight, 'torch')
        q = x[None].double()
        assert torch.equal(ops.attention(q, q, q), ops.attention(q, q, q, 'reference'))
    assert len(taken) == 1


@pytest.mark.parametrize('names', [dict(scan='quick'), dict(scan=None), dict(conv='torch'), dict(attention=1)])
def test_names_that_are_not_there(names):
    before = {word: operator.forced for word, operator in OPERATORS.items()}
    match = str(*names.values()) if 'conv' not in names else 'conv'
    with pytest.raises(UserError, match=match), ops.backend(depthwise='shifted', **names):
        pass
    assert before == {word: operator.forced for word, operator in OPERATORS.items()}
