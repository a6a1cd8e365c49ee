"""The lazy limit against quadrature, closed forms, sampling, neural-tangents' own recursion and the march at tiny gamma0."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmft import gaussian, lazy
from dmft import neural_tangents as nt
from dmft.lazy import Lazy
from tests.oracle import overlaps, replicas, z_scores
from widthwise import MLP, GradientDescent, Parameterization, Problem, Task, memory, schedules, tasks
from widthwise.activation import NAMED, as_activation
from widthwise.precision import float64

TASK = tasks.gaussian(3, 2, input_dim=6, seed=1)
NEURAL_TANGENTS = {"linear": "Identity", "relu": "Relu", "erf": "Erf", "gelu": "Gelu"}
SMOOTH = ("linear", "tanh", "erf", "gelu", "softplus", "quadratic")


def leaky(h):
    return jnp.maximum(h, 0.1 * h)


def swish(h):
    return h * jax.nn.sigmoid(2 * h)


def solve(problem, steps=(0,), method=Lazy(), **settings):  # noqa: B008
    return method.run(problem, seed=0, kernel_steps=np.array(steps), progress=False, **settings)


def make(activation="tanh", depth=2, task=TASK, eta0=0.3, num_steps=6, **parameterization):
    return Problem(MLP(depth, activation), Parameterization(**parameterization), task, GradientDescent(eta0, num_steps))


def fields_of(X):
    return gaussian.Fields.of_points(X / np.sqrt(X.shape[1]), X / np.sqrt(X.shape[1]))


def gauss_hermite(act, Phi, degree=180):
    """<phi phi> and <phi' phi'> by the product Gauss-Hermite rule on Cholesky coordinates, pair by pair."""
    x, w = np.polynomial.hermite_e.hermegauss(degree)
    w = w / w.sum()
    out = np.zeros((2, *Phi.shape))
    with float64():
        for m, n in zip(*np.triu_indices(len(Phi)), strict=True):
            a, b, c = Phi[m, m], Phi[n, n], Phi[m, n]
            u = np.sqrt(a) * x[:, None]
            v = c / np.sqrt(a) * x[:, None] + np.sqrt(max(b - c * c / a, 0.0)) * x
            for i, F in enumerate((act.phi, act.d)):
                out[i, m, n] = out[i, n, m] = w @ (np.asarray(F(jnp.asarray(u))) * np.asarray(F(jnp.asarray(v)))) @ w
    return out


def arc_cosine(Phi):
    """Cho & Saul 2009."""
    norm = np.sqrt(np.outer(np.diag(Phi), np.diag(Phi)))
    angle = np.arccos(np.clip(Phi / norm, -1, 1))
    return norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi), (np.pi - angle) / (2 * np.pi)


def reference_kernels(act, depth, Phi0, averages):
    """Phi^l, G^l by their recursion, written out."""
    Phi, slope = [Phi0], []
    for _ in range(depth):
        phi_phi, d_d = averages(Phi[-1])
        Phi.append(phi_phi)
        slope.append(d_d)
    G = [np.ones_like(Phi0)]
    for d_d in slope[::-1]:
        G.insert(0, G[0] * d_d)
    return np.array(Phi[1:]), np.array(G[:-1])


@pytest.mark.parametrize("name", [*SMOOTH, "relu"])
def test_kernels_are_the_gaussian_averages(name):
    """Named activations against 180 x 180 Gauss-Hermite nodes (relu, which has a kink, against the arc-cosine kernels).

    1e-8: the rule's error for tanh, the slowest, falls like exp(-pi sqrt(n / Phi)), its poles being at +-i pi / 2 (120
    nodes: 3e-8); relu: angles of equal samples are roots of rounding errors, 1e-8.
    """
    act = NAMED[name]
    estimate, status, _ = solve(make(name), steps=(0, 3, 6))
    averages = arc_cosine if name == "relu" else lambda Phi: gauss_hermite(act, Phi)
    Phi, G = reference_kernels(act, 2, TASK.Phi0, averages)
    assert status.ok
    assert estimate.n == 0
    for got, expected in ((estimate.mean.Phi, Phi), (estimate.mean.G, G)):
        assert got.shape == (2, 3, 5, 3, 5)
        for t, s in np.ndindex(3, 3):
            np.testing.assert_allclose(got[:, t, :, s], expected, rtol=1e-8, atol=2e-8)
    wrong, _ = reference_kernels(act, 2, 1.02 * TASK.Phi0, averages)  # negative twin: inputs 1 % larger
    assert not np.allclose(estimate.mean.Phi[:, 0, :, 0], wrong, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("function", ["quadratic", leaky])
def test_activations_without_closed_form_against_sampling(function):
    """Every entry of <phi phi> and <phi' phi'> within 4.5 standard errors of 2e5 samples: 40 entries, so p = 3e-4."""
    act, S = as_activation(function), 200_000
    Phi = TASK.Phi0[:3, :3]
    u = np.random.default_rng(5).standard_normal((S, len(Phi))) @ np.linalg.cholesky(Phi + 1e-12 * np.eye(len(Phi))).T
    with float64():
        got = gaussian.averages(act, fields_of(TASK.X), 256)
        fields = [np.asarray(F(jnp.asarray(u))) for F in (act.phi, act.d)]
    assert got.error < 1e-8
    for average, x in zip((got.fields.Phi, got.d_d), fields, strict=True):
        mean = x.T @ x / S
        sem = np.sqrt(((x**2).T @ x**2 / S - mean**2) / S)
        assert (np.abs(average - mean) < 4.5 * sem).all()
        assert not (np.abs(1.05 * average - mean) < 4.5 * sem).all()  # negative twin


@pytest.mark.parametrize("name", SMOOTH)
def test_hermite_series_is_the_quadrature(name):
    """Two algorithms, each to its own error; relu has no series that ends."""
    act, fields = NAMED[name], fields_of(TASK.X_all)
    with float64():
        series, expected = gaussian.hermite_series(act, fields), gaussian.quadrature(act, fields, 256)
        assert gaussian.hermite_series(NAMED["relu"], fields) is None
    assert series.error < 1e-11
    assert expected.error < 1e-8
    for got, exact in zip((*series.fields[:3], series.d_d), (*expected.fields[:3], expected.d_d), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-9, atol=1e-10)
    off = ~np.eye(len(TASK.X_all), dtype=bool)
    np.testing.assert_allclose(series.fields.angle[off], expected.fields.angle[off], rtol=1e-7)


@pytest.mark.parametrize("name", ["linear", "relu", "erf", "gelu", "tanh"])
def test_tangent_kernel_is_that_of_neural_tangents(name):
    """Its own recursion, through the whole network, fixes the convention K = sum_{l=0..L} G^{l+1} Phi^l."""
    stax = nt.stax
    if name in NEURAL_TANGENTS:
        layer = getattr(stax, NEURAL_TANGENTS[name])()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that quadrature has an error
            layer = stax.ElementwiseNumerical(jnp.tanh, deg=120, df=NAMED[name].d)
    for depth in (1, 3):
        _, _, kernel_fn = stax.serial(*[stax.Dense(1), layer] * depth, stax.Dense(1))
        with float64():
            K = np.array(kernel_fn(TASK.X_all, None, "ntk"))
        mean = solve(make(name, depth)).trajectory.mean
        np.testing.assert_allclose(mean.tangent_kernel(TASK.Phi0)[0], K, rtol=1e-6, atol=1e-8)
        assert not np.allclose(solve(make(name, depth + 1)).trajectory.mean.tangent_kernel(TASK.Phi0)[0], K, rtol=1e-2)


def test_linear_network():
    """Phi^l = Phi^0, G^l = 1, K = (L + 1) Phi^0."""
    mean = solve(make("linear", depth=3)).trajectory.mean
    np.testing.assert_allclose(mean.Phi[:, 0, :, 0], np.array([TASK.Phi0] * 3), rtol=1e-15)
    np.testing.assert_allclose(mean.G, 1.0, rtol=1e-15)
    np.testing.assert_allclose(mean.tangent_kernel(TASK.Phi0)[0], 4 * TASK.Phi0, rtol=1e-14)


def test_descent_is_the_eigenmode_solution():
    """f_train(t) = (1 - (1 - eta0 K / P)^t) y,  f_test(t) = K_test K^{-1} f_train(t); rounding only."""
    problem = make(depth=2, num_steps=40, eta0=0.5)
    mean = solve(problem).trajectory.mean
    K, P, y = mean.tangent_kernel(TASK.Phi0)[0], TASK.num_train, TASK.y
    values, vectors = np.linalg.eigh(K[:P, :P])

    def exact(t, eta0=0.5):
        return vectors @ ((1 - (1 - eta0 * values / P) ** t) * (vectors.T @ y))

    for t in (0, 1, 7, 40):
        train = exact(t)
        expected = np.concatenate([train, K[P:, :P] @ np.linalg.solve(K[:P, :P], train)])
        np.testing.assert_allclose(mean.f[t], expected, atol=1e-12)
    np.testing.assert_allclose(mean.loss, [np.mean((exact(t) - y) ** 2) / 2 for t in range(41)], atol=1e-13)
    np.testing.assert_allclose(mean.test_loss, np.mean((mean.f[:, P:] - TASK.y_test) ** 2, axis=1) / 2)
    assert np.abs(mean.f[7, :P] - exact(8)).max() > 1e-3  # negative twins: time shifted by one, eta0 off by 20 %
    assert np.abs(mean.f[7, :P] - exact(7, 0.6)).max() > 1e-3


@pytest.mark.parametrize("activation", ["tanh", swish])
def test_it_is_the_limit_of_the_march(activation):
    """f, Phi, G at gamma0 = 1e-4 within 5 standard errors of 8 replicas (corrections are of order gamma0^2 = 1e-8)."""
    task = tasks.gaussian(2, 1, input_dim=4, seed=3)
    problem = make(activation, task=task, num_steps=4, gamma0=1e-4)
    runs = replicas(problem, 1000, 8)

    def worst(problem):
        return np.abs(z_scores(overlaps(runs, vars(solve(problem, range(5)).trajectory.mean)))).max()

    assert worst(problem) < 5  # of 5 numbers; Student's t with 7 degrees of freedom exceeds 5 with p = 0.0016
    assert worst(problem.replace(eta0=0.36)) > 5  # negative twin


@pytest.mark.parametrize("name", sorted(NAMED))
def test_singular_kernels(name):
    """Equal samples, opposite samples and a zero input: finite, and equal samples are treated alike."""
    X = np.array([[1.0, 0.5], [1.0, 0.5], [0.0, 0.0], [-1.0, -0.5]])
    mean = solve(make(name, task=Task(X, [1.0, 1.0, 0.0, -1.0]))).trajectory.mean
    for x in (mean.f, mean.Phi, mean.G):
        assert np.isfinite(x).all()
    np.testing.assert_allclose(mean.f[:, 0], mean.f[:, 1], rtol=1e-12)
    if NAMED[name].phi(jnp.zeros(())) == 0 and NAMED[name].d(jnp.zeros(())) == 0:
        assert np.abs(mean.G[:, :, 2]).max() == 0  # no field, no slope, no gradient
        assert np.abs(mean.f[:, 2]).max() == 0


def test_one_sample():
    """f(t) = (1 - (1 - eta0 K)^t) y with a number K."""
    mean = solve(make("erf", task=Task([[1.0, 2.0]], [0.7]))).trajectory.mean
    K = mean.tangent_kernel(np.array([[2.5]]))[0, 0, 0]
    np.testing.assert_allclose(mean.f[:, 0], 0.7 * (1 - (1 - 0.3 * K) ** np.arange(7)), rtol=1e-12)


def test_the_limit_of_ntk_parameterization_whatever_gamma0():
    f = [solve(make(kind=kind, gamma0=gamma0)).trajectory.mean.f for kind, gamma0 in (("ntk", 3.0), ("mean_field", 1.0))]
    np.testing.assert_array_equal(*f)
    with pytest.raises(ValueError, match="centered=True"):
        solve(make(kind="ntk", centered=False))


def test_divergence_is_a_status_with_its_cure():
    """Beyond eta0 = 2 P / lambda_max modes grow; no numpy warning (they are errors in these tests)."""
    problem = make(eta0=100.0, num_steps=400)
    status = solve(problem).status
    assert not status.ok
    assert "lower eta0" in status.message
    assert solve(problem.replace(eta0=status.suggested_eta0)).status.ok


def test_a_kink_away_from_zero_is_reported():
    with pytest.raises(ValueError, match="max_nodes"):
        Lazy(max_nodes=10)
    status = solve(make(lambda h: jnp.clip(h, -1.0, 1.0), depth=1), method=Lazy(max_nodes=64)).status
    assert not status.ok
    assert "max_nodes=64" in status.message


def test_precision_is_local():
    before = jax.config.jax_enable_x64
    f = solve(make()).trajectory.mean.f
    assert f.dtype == np.float64
    assert jax.config.jax_enable_x64 == before
    assert jnp.zeros(1).dtype == (jnp.float64 if before else jnp.float32)


def test_memory_is_asked_for_first(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="fewer"):
        solve(make())


# --- everything that training can be ----------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X, X_TEST = RNG.standard_normal((6, 4)), RNG.standard_normal((2, 4))
CLASSES, SIGNS = np.eye(3)[[0, 1, 2, 1, 0, 2]], np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
ROWS = np.arange(39).reshape(13, 3) % 5


def train(y, bias=0.6, depth=2, **training):
    task = Task(X, y, X_TEST, y[:2])
    return Problem(MLP(depth, "erf", bias), Parameterization(), task, GradientDescent(0.9, 12, **training))


CASES = {
    "three outputs": (CLASSES, {}),
    "cross entropy": (CLASSES, {"loss": "cross_entropy"}),
    "logistic": (SIGNS, {"loss": "logistic"}),
    "own loss": (CLASSES, {"loss": lambda f, y: jnp.sum(jnp.sqrt(1 + (f - y) ** 2))}),
    "momentum": (CLASSES, {"momentum": 0.6}),
    "nesterov": (CLASSES, {"momentum": 0.6, "nesterov": True}),
    "schedule": (SIGNS, {"schedule": schedules.cosine(12), "momentum": 0.5}),
    "layer rates": (CLASSES, {"layer_rates": [0.5, 0.0, 1.5], "momentum": 0.5}),
    "mini-batches": (CLASSES, {"batch_size": 2}),
    "own batches": (SIGNS, {"batches": ROWS}),
    "label noise": (CLASSES, {"label_noise": 0.5, "batch_size": 3}),
}


def linear_model(problem):
    """f = sum_l J_l theta_l with J_l J_l^T = G^{l+1} (Phi^l + bias^2), trained weight by weight as `GradientDescent` says."""
    task, training, bias = problem.task, problem.training, problem.architecture.bias
    mean = solve(problem).trajectory.mean
    Phi = [problem.Phi0, *(mean.Phi[:, 0, :, 0] + bias**2)]
    G = [*mean.G[:, 0, :, 0], np.ones_like(Phi[0])]
    roots = [np.linalg.cholesky(g * p + 1e-14 * np.eye(len(p))) for g, p in zip(G, Phi, strict=True)]
    theta = [np.zeros((len(J), task.num_outputs)) for J in roots]
    velocity = [np.zeros_like(x) for x in theta]
    index, noise = training.batches_of(task.num_train, task.num_outputs)
    y, eta = task.y.reshape(-1, task.num_outputs), training.eta(problem.architecture.depth)
    out = []
    for t, rows in enumerate(index):
        out.append(sum(J @ x for J, x in zip(roots, theta, strict=True)))
        if t == training.num_steps:
            return np.array(out)
        Delta = training.Delta(out[-1][rows], y[rows] + (0.0 if noise is None else noise[t]))
        for l, J in enumerate(roots):
            G_l = J[rows].T @ Delta
            velocity[l] = training.momentum * velocity[l] + G_l
            theta[l] += eta[t, l] * (G_l + training.momentum * velocity[l] if training.nesterov else velocity[l])


@pytest.mark.parametrize("name", CASES)
def test_it_is_training_of_the_linear_model(name):
    """1e-8: the roots carry 1e-14 on their diagonals. Negative twin: the first two steps of other sizes."""
    y, training = CASES[name]
    problem = train(y, **training)
    f = solve(problem).trajectory.mean.f.reshape(13, 8, -1)
    np.testing.assert_allclose(f, linear_model(problem), atol=1e-8)
    other = linear_model(train(y, **training | {"schedule": [0.9, 1.1, *[1.0] * 10]}))
    assert np.abs(f - other)[1:].max() > 1e-4


@pytest.mark.parametrize("activation", ["erf", "tanh"])
def test_online_is_batches_without_return(activation, monkeypatch):
    """The stream seen as mini-batches of one task, all of whose points are watched; K in blocks of two batches."""
    stream, y = RNG.standard_normal((12, 4)), np.eye(3)[RNG.integers(0, 3, 12)]
    task = Task(stream, y, X_TEST, CLASSES[:2])
    online = Problem(
        MLP(2, activation, 0.6),
        Parameterization(),
        task,
        GradientDescent(0.9, 5, batch_size=2, sampling="online", momentum=0.5),
    )
    watched = online.replace(sampling="epochs", batch_size=None, batches=np.arange(12).reshape(6, 2))
    monkeypatch.setattr(lazy, "BLOCK", 14 * 4)
    one, other = (solve(problem, [0, 5]).trajectory.mean for problem in (online, watched))
    np.testing.assert_allclose(one.f, other.f[:, 12:], atol=1e-12)
    np.testing.assert_allclose(one.Phi, other.Phi[:, :, 12:, :, 12:], rtol=1e-12)
    losses = [online.training.loss_of(other.f[t, 2 * t : 2 * t + 2], y[2 * t : 2 * t + 2]) for t in range(6)]
    np.testing.assert_allclose(one.loss, losses, rtol=1e-10)
    assert not np.allclose(one.loss[1:], losses[:-1], rtol=1e-2)
    np.testing.assert_allclose(one.test_loss, other.test_loss, rtol=1e-10)


@pytest.mark.parametrize("name", ["erf", "relu"])
def test_biases_are_those_of_neural_tangents(name):
    layer, dense = getattr(nt.stax, NEURAL_TANGENTS[name])(), nt.stax.Dense(1, W_std=1.0, b_std=0.6)
    _, _, kernel_fn = nt.stax.serial(*[dense, layer] * 2, dense)
    with float64():
        K = np.array(kernel_fn(np.concatenate([X, X_TEST]), None, "ntk"))
    problem = train(SIGNS).replace(activation=name)
    NTK = solve(problem, [0, 3], save=("NTK",)).trajectory.mean["NTK"]
    assert NTK.shape == (2, 8, 8)
    np.testing.assert_allclose(NTK, [K, K], rtol=1e-6, atol=1e-8)
    other = solve(problem.replace(bias=0.55), save=("NTK",)).trajectory.mean["NTK"]
    assert not np.allclose(other[0], K, rtol=1e-2)


def test_flow():
    """The closed form, the integrator on the same loss in disguise, and small steps extrapolated to none."""
    schedule = [1.0, 0.5, 0.0, *[1.0] * 9]
    problem = train(CLASSES, flow=True, schedule=schedule)
    f = solve(problem).trajectory.mean.f
    disguised = problem.replace(loss=lambda f, y: jnp.sum((f - y) ** 2) / 2)
    np.testing.assert_allclose(solve(disguised).trajectory.mean.f, f, atol=1e-8)
    np.testing.assert_array_equal(f[2], f[3])

    def steps(problem, n):
        small = problem.replace(flow=False, num_steps=12 * n, schedule=np.repeat(schedule, n) / n)
        return solve(small).trajectory.mean.f[::n]

    other = problem.replace(loss="cross_entropy")
    for p, exact in ((problem, f), (other, solve(other).trajectory.mean.f)):
        np.testing.assert_allclose(2 * steps(p, 80) - steps(p, 40), exact, atol=2e-5)
        assert np.abs(steps(p, 40) - exact).max() > 1e-4


def test_sharpness_predicts_the_edge_of_stability():
    """Full-batch gradient descent on mse is stable below eta0 = 2 / sharpness, and not above."""
    problem = train(SIGNS, momentum=0.0)
    mean = solve(problem, [0, 12], save=("sharpness", "eigenvalues")).trajectory.mean
    assert mean["eigenvalues"].shape == (2, 6)
    np.testing.assert_allclose(mean["sharpness"], mean["eigenvalues"][:, 0], rtol=1e-12)
    edge = 2 / mean["sharpness"][0]
    assert solve(problem.replace(eta0=0.98 * edge, num_steps=400)).status.ok
    assert not solve(problem.replace(eta0=1.05 * edge, num_steps=400)).status.ok
    three = train(CLASSES, loss="cross_entropy")
    got = solve(three, [0], save=("sharpness", "eigenvalues")).trajectory.mean
    assert got["sharpness"][0] == pytest.approx(got["eigenvalues"][0, 0] / 3, rel=1e-10)  # H = 1/3 - 1/9 at f = 0


def test_obstacles():
    assert Lazy.obstacle(train(SIGNS, momentum=0.9)) is None
    for setting in ({"weight_decay": 0.1}, {"temperature": 0.1}):
        problem = train(SIGNS, **setting)
        (name,) = setting
        assert name in Lazy.obstacle(problem)
        with pytest.raises(ValueError, match=rf"without {name}, got 0.1.*use March\(\) at a small gamma0"):
            solve(problem)
    with pytest.raises(ValueError, match="save must be one of 'NTK', 'eigenvalues', 'sharpness'; got 'h'"):
        solve(train(SIGNS), save=("h",))
