"""neural-tangents on today's JAX: right kernels, and JAX left as it was found."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from dmft import neural_tangents as nt
from widthwise.precision import float64

rng = np.random.default_rng(7)
X = rng.standard_normal((5, 8))

LEFT_AS_FOUND = """
import sys, types
import jax, jax.core, jax.interpreters.pxla, jax.random, jax.tree_util
modules = jax, jax.core, jax.random, jax.tree_util, jax.interpreters.pxla
before = [dict(vars(module)) for module in modules]
x64 = jax.config.jax_enable_x64

def changes():
    for module, names in zip(modules, before):
        for name, value in vars(module).items():
            if not isinstance(value, types.ModuleType) and names.get(name) is not value:
                yield f"{module.__name__}.{name}"
    if jax.config.jax_enable_x64 != x64:
        yield "jax_enable_x64"
    yield from {"tensorflow", "tf2jax"} & set(sys.modules)

from dmft import neural_tangents as nt
assert "neural_tangents" not in sys.modules, "import dmft loads neural_tangents"
nt.stax.Relu
assert "neural_tangents" in sys.modules
print(*changes(), sep=",")
jax.random.KeyArray = jax.Array
print(*changes(), sep=",")
"""


def test_jax_is_left_as_it_was_found():
    """In a fresh process, since here the library may be loaded already. The second line is the negative twin."""
    done = subprocess.run([sys.executable, "-c", LEFT_AS_FOUND], capture_output=True, text=True)
    assert done.stdout == "\njax.random.KeyArray\n", done.stderr


def test_old_names_go_away_when_the_import_fails():
    def fails():
        with nt._old_names():
            assert hasattr(jax.random, "KeyArray")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert not hasattr(jax.random, "KeyArray")


def test_a_name_that_it_does_not_have():
    with pytest.raises(AttributeError):
        nt.no_such_thing  # noqa: B018


def tangent_kernel(layer, X):
    _, _, kernel_fn = nt.stax.serial(nt.stax.Dense(1), layer, nt.stax.Dense(1))
    with float64():
        return np.array(kernel_fn(X, None, "ntk"))


def arc_cosine(X):
    """Cho & Saul 2009 for one hidden layer: Phi^1 + Phi^0 <phi' phi'>."""
    Phi0 = X @ X.T / X.shape[1]
    norm = np.sqrt(np.outer(np.diag(Phi0), np.diag(Phi0)))
    angle = np.arccos(np.clip(Phi0 / norm, -1, 1))
    return norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi) + Phi0 * (np.pi - angle) / (2 * np.pi)


def arc_sine(X):
    """Williams 1997 for one hidden layer of erf: Phi^1 + Phi^0 <phi' phi'>."""
    Phi0 = X @ X.T / X.shape[1]
    a = 1 + 2 * np.diag(Phi0)
    return 2 / np.pi * np.arcsin(2 * Phi0 / np.sqrt(np.outer(a, a))) + Phi0 * 4 / np.pi / np.sqrt(np.outer(a, a) - 4 * Phi0**2)


@pytest.mark.parametrize(("layer", "closed_form"), [("Relu", arc_cosine), ("Erf", arc_sine)])
def test_tangent_kernel_is_the_closed_form(layer, closed_form):
    """1e-7: on the diagonal of ReLU the angle is the root of a rounding error, 1e-8; elsewhere both are exact to 1e-14."""
    K = tangent_kernel(getattr(nt.stax, layer)(), X)
    np.testing.assert_allclose(K, closed_form(X), atol=1e-7)
    off = ~np.eye(len(X), dtype=bool)
    np.testing.assert_allclose(K[off], closed_form(X)[off], rtol=1e-12, atol=1e-13)
    assert np.abs(K - closed_form(1.2 * X)).max() > 0.05  # negative twin


def test_tangent_kernel_is_the_average_over_networks():
    """The library's own sampler (whose key annotation is redirected) within 4.5 standard errors of the closed form.

    A run of n_samples = 32 networks yields the running means; their increments are 32 independent networks.
    """
    n = 32
    with float64():
        init_fn, apply_fn, kernel_fn = nt.stax.serial(nt.stax.Dense(256), nt.stax.Relu(), nt.stax.Dense(1))
        sample = nt.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(3), range(1, n + 1))
        sums = [i * np.array(mean) for i, mean in enumerate(sample(X, None, "ntk"), 1)]
        K = np.array(kernel_fn(X, None, "ntk"))
    runs = np.diff(sums, axis=0, prepend=0 * K[None])
    statistic = (runs * K).sum((1, 2)) / (K * K).sum()
    mean, sem = statistic.mean(), statistic.std(ddof=1) / np.sqrt(n)
    assert abs(mean - 1) < 4.5 * sem
    assert sem < 0.03
    assert abs(mean - 1.2**2) > 4.5 * sem  # negative twin: inputs 20 % larger


def test_prediction_is_kernel_gradient_flow():
    """`predict` goes through the redirected eval_context and eigvalsh; mean-squared loss, so the rate is 1 / P."""
    y = rng.standard_normal((len(X), 1))
    K = tangent_kernel(nt.stax.Erf(), X)
    with float64():
        f = np.array(nt.predict.gradient_descent_mse(K, y)(3.0))
        rate = float(nt.predict.max_learning_rate(K))
    values, vectors = np.linalg.eigh(K)
    for time, agrees in ((3.0, True), (3.6, False)):
        exact = vectors @ ((1 - np.exp(-values * time / len(X)))[:, None] * (vectors.T @ y))
        assert np.allclose(f, exact, rtol=1e-10, atol=1e-12) == agrees
    np.testing.assert_allclose(rate, 2 * len(X) / values[-1], rtol=1e-9)
