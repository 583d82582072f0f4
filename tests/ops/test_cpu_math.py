"""The elementary functions of the CPU kernels against float64, compiled as the kernels are."""
import numpy as np
import pytest

numba = pytest.importorskip('numba')
from mmmambavision.ops import cpu_math  # noqa: E402

FLAGS = dict(exp2={'contract', 'nsz'}, exp={'contract', 'reassoc', 'nsz'}, softplus={'contract', 'reassoc', 'nsz'},
             sigmoid={'contract', 'reassoc', 'nsz'})
EXACT = dict(exp2=np.exp2, exp=np.exp, softplus=lambda x: np.logaddexp(0, x), sigmoid=lambda x: 1 / (1 + np.exp(-x)))
# From where, to where, and the error in units of 2^-24 that the docstring promises.
BOUNDS = dict(exp2=(-126, 126, 2), exp=(-87, 88, 2), softplus=(-87, 200, 5), sigmoid=(-87, 88, 3))


def on_arrays(name):
    function = getattr(cpu_math, name)

    @numba.njit(fastmath=FLAGS[name], error_model='numpy')
    def run(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    def call(x):
        x = np.asarray(x, np.float32)
        out = np.empty_like(x)
        run(x, out)
        return out
    return call


@pytest.mark.parametrize('name', BOUNDS)
def test_error(name):
    low, high, bound = BOUNDS[name]
    x = np.concatenate([np.linspace(low, high, 300_001), np.linspace(-2, 2, 300_001), np.arange(low, high + 1),
                        np.random.uniform(low, high, 100_000), [0., -0., 1e-30, -1e-30]]).astype(np.float32)
    exact = EXACT[name](x.astype(np.float64))
    error = np.abs(on_arrays(name)(x) - exact) / exact
    assert error.max() * 2 ** 24 <= bound, x[error.argmax()]


def test_beyond_the_range():
    assert on_arrays('exp2')([-126.1, -1e30, -np.inf]).tolist() == [0., 0., 0.]
    assert np.isnan(on_arrays('exp2')([np.nan])).all()
    exp = on_arrays('exp')
    assert np.array_equal(exp([-100., -np.inf, 100., np.inf]), exp([-87., -87., 88., 88.]))
    softplus, sigmoid = on_arrays('softplus'), on_arrays('sigmoid')
    assert softplus([1e30, np.inf]).tolist() == [np.float32(1e30), np.inf] and 0 < softplus([-1e30])[0] < 1e-37
    assert sigmoid([1e30]).tolist() == [1.] and 0 < sigmoid([-1e30])[0] < 1e-37


def test_powers_of_two_are_exact():
    @numba.njit
    def run(k, out, rounded):
        for i in range(k.size):
            out[i] = cpu_math.power_of_two(k[i])
            rounded[i] = cpu_math.power_of_two_rounded(k[i] + np.float32(.25) + cpu_math.ROUND)

    k = np.arange(-126, 128, dtype=np.float32)
    out, rounded = np.empty_like(k), np.empty_like(k)
    run(k, out, rounded)
    assert np.array_equal(out, np.exp2(k.astype(np.float64))) and np.array_equal(rounded, out)
