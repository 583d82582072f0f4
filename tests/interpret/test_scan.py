import math

import pytest
import torch

from mmmambavision.interpret.scan import half_life, reach, scan_maps, steps_and_rates
from mmmambavision.interpret.tokens import find_block
from mmmambavision.models.mixers import MambaVisionMixer
from mmmambavision.ops.scan.reference import selective_scan_reference


def impulse_response(steps, A, start):
    """What each state of the recurrence, run step by step, holds of 1 put in at `start`: (L, c, N)."""
    length, channels = steps.shape
    states = A.shape[1]
    u = torch.zeros(1, channels, length, dtype=torch.float64)
    u[..., start] = 1 / steps[start]  # the recurrence takes in step * B * u
    out = []
    for n in range(states):
        C = torch.zeros(1, 1, states, length, dtype=torch.float64)
        C[:, :, n] = 1
        y, _ = selective_scan_reference(u, steps.T[None], A, torch.ones_like(C), C)
        out.append(y[0].T)
    return torch.stack(out, -1)


@pytest.fixture
def sequence():
    torch.manual_seed(0)
    return torch.rand(40, 5, dtype=torch.float64), -torch.rand(5, 3, dtype=torch.float64) - .1


@pytest.mark.parametrize('start', [0, 17, 39])
def test_reach_is_the_recurrences(start, sequence):
    torch.testing.assert_close(reach(*sequence, start), impulse_response(*sequence, start))


def test_half_life_is_the_recurrences(sequence):
    """After as many steps a state holds half; together L steps, of whatever sizes, keep 2^(-L / half-life)."""
    A = torch.tensor([[-1., -.25]], dtype=torch.float64)
    steps = torch.full((33, 1), math.log(2) / 8, dtype=torch.float64)
    assert half_life(steps, A).tolist() == [[pytest.approx(8), pytest.approx(32)]]
    kept = impulse_response(steps, A, 0)
    assert (kept[8, 0, 0].item(), kept[32, 0, 1].item()) == (pytest.approx(.5), pytest.approx(.5))
    steps, A = sequence
    kept = impulse_response(torch.cat([torch.ones_like(steps[:1]), steps]), A, 0)[-1]
    torch.testing.assert_close(2 ** (-len(steps) / half_life(steps, A)), kept)


def test_steps_are_those_the_network_scans_with(network, image, monkeypatch):
    trunk, seen = network(), []

    def spy(u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
        assert delta_softplus
        seen.append((torch.nn.functional.softplus(delta + delta_bias[:, None]), A))
        return selective_scan_reference(u, delta, A, B[:, None], C[:, None], D, None, delta_bias, True)[0]

    monkeypatch.setattr('mmmambavision.models.mixers.selective_scan', spy)
    steps, A, windows = steps_and_rates(find_block(trunk, MambaVisionMixer, '2.1'), image)
    assert (windows.height, windows.width) == (7, 10) and steps.shape == (1, 70, 32)
    torch.testing.assert_close(steps, seen[1][0].transpose(1, 2))
    torch.testing.assert_close(A, seen[1][1].double())


@pytest.mark.parametrize('window', [None, 4, 16, ('balanced', 4)])
def test_maps(window, network, image):
    block = find_block(network(window), MambaVisionMixer)
    steps, A, _ = steps_and_rates(block, image)
    row, column = 5, 6
    window = None if isinstance(window, tuple) else window  # then scans see the whole map
    reached, half_lives = scan_maps(block, image, (row, column))
    side = window or 10
    number, start = (row // side * -(-10 // side) + column // side, row % side * side + column % side)
    response = impulse_response(steps[number], A, start).mean(1)  # (L, N)
    for i in range(7):
        for j in range(10):
            same = window is None or (i // side, j // side) == (row // side, column // side)
            expected = response[i % side * side + j % side] if same and window else response[i * 10 + j] if same else 0.
            torch.testing.assert_close(reached[:, i, j], torch.zeros(8, dtype=torch.float64) + expected)
    assert (reached[:, row, column] == 1).all() and (reached[:, row, :column] == 0).all()
    on_map = [steps[i // side * -(-10 // side) + j // side, i % side * side + j % side] if window
              else steps[0, i * 10 + j] for i in range(7) for j in range(10)]
    torch.testing.assert_close(half_lives, half_life(torch.stack(on_map), A))
