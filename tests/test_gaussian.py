"""Averages over Gaussian fields where they are hard: equal and opposite samples, steps, narrow features, any scale."""

import tracemalloc
import warnings

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.integrate import quad

import dmft
from dmft import gaussian, scaling
from dmft.deep_linear import DeepLinear
from dmft.lazy import Lazy
from widthwise import MLP, GradientDescent, Parameterization, Problem, Task, memory
from widthwise.activation import as_activation
from widthwise.precision import float64

rng = np.random.default_rng(0)


def solve(X, activation, depth=1, bias=0.0, method=Lazy()):  # noqa: B008
    problem = Problem(MLP(depth, activation, bias), Parameterization(), Task(X, np.ones(len(X))), GradientDescent(1e-30, 1))
    return dmft.solve(problem, method, save_kernels=[0], save=["NTK"], throw=False)


def kernels(result):
    return result.mean.Phi[:, 0, :, 0], result.mean.G[:, 0, :, 0]


def arc_cosine(X, depth, bias):
    """Tangent kernel of relu (Cho & Saul 2009) to 60 digits."""
    with mpmath.workdps(60):
        s2, D = mpmath.mpf(bias) ** 2, X.shape[1]
        rows = [[mpmath.mpf(float(x)) for x in row] for row in X]
        Phi = [[sum(x * y for x, y in zip(a, b, strict=True)) / D for b in rows] for a in rows]
        K = [[phi + s2 for phi in row] for row in Phi]
        for _ in range(depth):
            C = [[phi + s2 for phi in row] for row in Phi]
            for m, n in np.ndindex(len(X), len(X)):
                size = mpmath.sqrt(C[m][m] * C[n][n])
                angle = mpmath.acos(min(max(C[m][n] / size, mpmath.mpf(-1)), mpmath.mpf(1))) if m != n else mpmath.mpf(0)
                rest = mpmath.pi - angle
                Phi[m][n] = size * (mpmath.sin(angle) + rest * mpmath.cos(angle)) / (2 * mpmath.pi)
                K[m][n] = Phi[m][n] + s2 + K[m][n] * rest / (2 * mpmath.pi)
        return np.array([[float(x) for x in row] for row in K])


NEAR = np.array([[1.0, 0.0], [1.0, 1e-9], [1.0, 2e-9], [2.0, 1e-8], [0.0, 1.0], [-1.0, 0.0], [-3.0, 1e-7]])


@pytest.mark.parametrize(("X", "bias"), [(np.linspace(1, 2, 9)[:, None], 0.05), (NEAR, 0.0), (NEAR, 0.3), (1e5 * NEAR, 0.3)])
@pytest.mark.parametrize("depth", [1, 3])
def test_relu_at_all_angles(X, bias, depth):
    """Every entry of K to 40 roundings; near-duplicates leave it positive, to rounding. Twin: the cosine's own angle."""
    K, exact = solve(X, "relu", depth, bias).mean["NTK"][0], arc_cosine(X, depth, bias)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.abs(K - exact).max() <= 1e-14 * scale.max()
    assert (np.abs(K - exact) / scale).max() < 1e-14
    assert np.linalg.eigvalsh(K / scale)[0] > -1e-14
    if len(X) == 9:
        return
    C = X @ X.T / X.shape[1] + bias**2
    angle = np.arccos(np.clip(C / np.sqrt(np.outer(np.diag(C), np.diag(C))), -1, 1))
    G = kernels(solve(X, "relu", 1, bias))[1][0]
    assert np.abs((np.pi - angle) / (2 * np.pi) - G).max() > 1e-10


def test_kinks_at_zero_at_all_angles():
    """leaky relu = 0.1 h + 0.9 relu: its kernels are those of relu and of h; 1e-8 by quadrature, near-duplicates too."""
    result = solve(NEAR, lambda h: jnp.maximum(h, 0.1 * h), 2)
    assert result.status.ok
    C, out = NEAR @ NEAR.T / 2, []
    fields = gaussian.Fields.of_points(NEAR / 2**0.5, NEAR / 2**0.5)
    relu, slope = gaussian._relu(fields)
    out.append(0.1**2 * C + 2 * 0.1 * 0.9 * C / 2 + 0.9**2 * relu.Phi)  # <h relu> = C / 2
    Phi, G = kernels(result)
    np.testing.assert_allclose(Phi[0], out[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(G[0] / G[1], 0.1**2 + 2 * 0.1 * 0.9 / 2 + 0.9**2 * slope, rtol=1e-8)


def average(F, a):
    """<F(u)> by adaptive Gauss-Kronrod, split where a step at zero ends."""
    edges = [
        0.0,
        *(s * x for s in (-1, 1) for x in np.minimum(np.append(np.geomspace(1, 30, 4) / a**0.5, [1.0, 4.0, 12.0]), 12)),
    ]
    total = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for low, high in zip(sorted(edges)[:-1], sorted(edges)[1:], strict=True):
            total += quad(lambda x: F(a**0.5 * x) * np.exp(-(x**2) / 2), low, high, epsabs=0, epsrel=1e-11)[0]
    return total / np.sqrt(2 * np.pi)


def slope(h):
    return 1 / np.cosh(np.clip(h, -300, 300)) ** 2


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_steps_of_any_steepness(scale):
    """tanh at inputs of norm 1 to 1e6: variances against adaptive quadrature, all to 1e-6; and far out, the known limits

    <tanh tanh> = (2 / pi) arcsin(rho),   <tanh' tanh'> = 4 / (2 pi sqrt(ab) sin(angle)),   corrections of order 1 / scale^2.
    """
    X = scale * np.array([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.5], [1e-3, 2e-3], [0.0, -3.0]])
    result = solve(X, "tanh")
    assert result.status.ok
    Phi, G = (x[0] for x in kernels(result))
    a = (X**2).sum(1) / 2
    for found, F in ((Phi, np.tanh), (G, slope)):
        exact = np.array([average(lambda h, F=F: F(h) ** 2, x) for x in a])
        np.testing.assert_allclose(np.diag(found), exact, rtol=1e-6)
        assert not np.allclose(np.diag(found), [average(lambda h, F=F: F(h) ** 2, 1.02 * x) for x in a], rtol=1e-6, atol=0)
    if scale == 1e6:
        rho = X @ X.T / np.sqrt(np.outer((X**2).sum(1), (X**2).sum(1)))
        off = ~np.eye(5, dtype=bool)
        np.testing.assert_allclose(Phi[off], (2 / np.pi * np.arcsin(rho))[off], atol=1e-6)
        density = 1 / (2 * np.pi * np.sqrt(np.outer(a, a)) * np.sqrt(np.maximum(1 - rho**2, 1e-300)))
        worst = np.abs(G - 4 * density)[off] / np.sqrt(np.outer(np.diag(G), np.diag(G)))[off]
        assert worst.max() < 1e-6


@pytest.mark.parametrize("name", ["erf", "gelu"])
def test_closed_forms_at_large_inputs(name):
    """Fields that are almost equal and very large, where 1 + 2a and 2a are the same: against the quadrature."""
    X = 1e3 * np.array([[1.0, 0.0], [1.0, 1e-6], [0.3, 2.0], [-1.0, 1e-5]])
    act = as_activation(name)
    fields = gaussian.Fields.of_points(X, X)
    with float64():
        exact, found = gaussian.quadrature(act, fields, 512), gaussian.averages(act, fields, 64)
    assert exact.error < 1e-6
    for one, other in ((found.fields.Phi, exact.fields.Phi), (found.d_d, exact.d_d)):
        scale = np.sqrt(np.outer(np.diag(other), np.diag(other)))
        assert (np.abs(one - other) / scale).max() < 1e-6


def bump(h):
    return h + 0.5 * jnp.exp(-(((h - 1) * 50) ** 2))


def test_a_narrow_feature_is_seen():
    """Its variances are exact all the same; the status says that the rest is not."""
    result = solve(np.array([[2.0], [1.0]]), bump)
    assert not result.status.ok
    assert "narrow feature" in result.status.message
    assert "standardize" not in result.status.message
    for i, a in enumerate((4.0, 1.0)):
        parts = [(-12, 0.9), (0.9, 1.0), (1.0, 1.1), (1.1, 12)]

        def density(u, a=a):
            return np.exp(-(u**2) / (2 * a)) / np.sqrt(2 * np.pi * a)

        def phi(u):
            return u + 0.5 * np.exp(-(((u - 1) * 50) ** 2))

        def d(u):
            return 1 - 2500 * (u - 1) * np.exp(-(((u - 1) * 50) ** 2))

        for F, found in ((phi, kernels(result)[0][0, i, i]), (d, kernels(result)[1][0, i, i])):
            limits = [(a**0.5 * x if abs(x) == 12 else x, a**0.5 * y if abs(y) == 12 else y) for x, y in parts]
            exact = sum(quad(lambda u, F=F: F(u) ** 2 * density(u), *ends, epsabs=1e-12, limit=200)[0] for ends in limits)
            assert found == pytest.approx(exact, rel=1e-6)
    assert solve(np.array([[2.0], [1.0]]), lambda h: h + 0.5 * jnp.exp(-((h - 1) ** 2))).status.ok  # negative twin: a wide one


def test_a_kernel_that_is_not_resolved_is_refused():
    """The closed form of `spectra.ntk` has no status: it raises."""
    narrow = dmft.spectra.ntk(MLP(1, bump))
    with pytest.raises(ValueError, match=r"resolved to .* only, which happens with .* a narrow feature"):
        narrow(np.array([0.3]))
    wide = dmft.spectra.ntk(MLP(1, lambda h: h + 0.5 * jnp.exp(-((h - 1) ** 2))), "nngp")  # negative twin
    x, w = np.polynomial.hermite_e.hermegauss(100)
    phi = x + 0.5 * np.exp(-((x - 1) ** 2))
    assert wide(np.array([0.0]))[0] == pytest.approx((w @ phi / w.sum()) ** 2, rel=1e-9)


def test_the_scale_of_the_inputs_is_named_soon(monkeypatch):
    """A table as it is, columns from 1 to 1e6, and an activation that oscillates; 210 pairs times 512^2 nodes are not tried."""
    X, spent, pairs = rng.standard_normal((20, 5)) * [1, 10, 1e3, 1e5, 1e6], [0], gaussian._pairs
    monkeypatch.setattr(
        gaussian, "_pairs", lambda act, rule, a, *more: (spent.append(len(a) * len(rule.r) ** 2), pairs(act, rule, a, *more))[1]
    )
    message = solve(X, jnp.sin).status.message
    assert "standardize" in message
    assert "kink" not in message
    assert sum(spent) < 2e7


def test_nodes_without_end_are_refused():
    with pytest.raises(ValueError, match=r"in 64 \.\.\. 4096"):
        Lazy(max_nodes=10**9)
    with pytest.raises(ValueError, match="num_nodes"):
        scaling.flow(dmft.spectra.Spectrum.power_law(2.0, 1.5, 10), [1.0], num_nodes=10**9)


def made(activation, depth, M, D=4, C=1, T=2, **training):
    y = rng.standard_normal((M, C)) if C > 1 else rng.standard_normal(M)
    test = (rng.standard_normal((5, D)), y[:5]) if training.get("sampling") == "online" else ()
    data = Task(rng.standard_normal((M, D)), y, *test)
    return Problem(MLP(depth, activation), Parameterization(), data, GradientDescent(1e-3, T, **training))


ONLINE = {"batch_size": 8, "sampling": "online"}
MEMORY = {
    "points": (Lazy(), made("relu", 3, 300), 0, ()),
    "kept": (Lazy(), made("erf", 2, 200), 3, ("NTK", "eigenvalues")),
    "sharpness": (Lazy(), made("erf", 1, 60, C=4), 3, ("sharpness",)),
    "steps": (Lazy(), made("erf", 1, 50, C=3, T=4000), 0, ()),
    "dimension": (Lazy(), made("relu", 1, 100, D=4000), 0, ()),
    "series": (Lazy(), made("tanh", 2, 400), 0, ()),
    "online": (Lazy(), made("relu", 2, 408, T=50, **ONLINE), 0, ()),
    "linear, steps": (DeepLinear(), made("linear", 2, 10, T=60), 2, ()),
    "linear, points": (DeepLinear(), made("linear", 1, 200, T=3), 0, ()),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_known_before(name, monkeypatch):
    """Within a factor of 1.5 of the measured peak."""
    method, problem, kept, save = MEMORY[name]
    asked = []
    monkeypatch.setattr(memory, "require", lambda needed, *_: asked.append(needed))

    def run():
        method.run(problem, seed=0, kernel_steps=np.arange(kept), progress=False, save=save)

    if name == "series":
        run()  # what is imported and compiled stays
    tracemalloc.start()
    try:
        run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 1 / 1.5 < asked[0] / peak < 1.5, f"{asked[0]:.3g} estimated, {peak:.3g} measured"
