"""Deep linear networks: against recursions, symmetries, the lazy limit, finite networks and the plain march."""

import jax.numpy as jnp
import numpy as np
import pytest

from dmft import deep_linear
from dmft.deep_linear import DeepLinear
from dmft.lazy import Lazy
from tests.oracle import extrapolated_z_scores, overlaps, replicas, small_networks, z_scores
from widthwise import MLP, GradientDescent, Parameterization, Problem, Task, memory, tasks

TASK = tasks.gaussian(3, 1, input_dim=6, seed=1)
ONE = Task([[1.0]], [1.0])  # one sample with Phi^0 = 1


def make(depth, gamma0=1.0, task=TASK, eta0=0.3, num_steps=10, activation="linear"):
    return Problem(MLP(depth, activation), Parameterization(gamma0), task, GradientDescent(eta0, num_steps))


def solve(problem, steps=None, method=DeepLinear()):  # noqa: B008
    """The exact trajectory; kernels at every step unless `steps` are given."""
    steps = np.arange(problem.training.num_steps + 1) if steps is None else np.array(steps, dtype=int)
    estimate, status, _ = method.run(problem, seed=0, kernel_steps=steps, progress=False)
    assert status.ok, status
    return estimate.mean


def recursion(gamma0, eta0, num_steps, y=1.0):
    """f and K of the two-layer linear network on one sample (2304.03408), exact at every N; here from N = infinity."""
    f, K, out = 0.0, 2.0, []
    for _ in range(num_steps + 1):
        out.append((f, K))
        Delta, c = y - f, eta0 * gamma0
        f, K = f + eta0 * K * Delta + c**2 * f * Delta**2, K + 4 * c * gamma0 * f * Delta + c**2 * K * Delta**2
    return np.array(out).T


@pytest.mark.parametrize("gamma0", [1e-3, 0.1, 1.0, 3.0, 10.0])
def test_two_layers_one_sample(gamma0):
    """Rounding only: 40 steps of a recursion in float64."""
    eta0 = min(0.2, 0.5 / gamma0)
    mean = solve(make(1, gamma0, ONE, eta0, 40))
    f, K = recursion(gamma0, eta0, 40)
    np.testing.assert_allclose(mean.f[:, 0], f, rtol=1e-10)
    np.testing.assert_allclose(mean.tangent_kernel(ONE.Phi0)[:, 0, 0], K, rtol=1e-10)
    f, _ = recursion(1.2 * gamma0, eta0, 40)  # negative twins
    assert not np.allclose(mean.f[:, 0], f, rtol=1e-10)
    assert not np.allclose(mean.f[:-1, 0], mean.f[1:, 0], rtol=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_lazy_limit_is_approached_like_gamma0_squared(depth):
    """Exponent 2 +- 0.02: the next order, gamma0^4, bends it by about gamma0^2 = 0.01 at the upper end."""
    gammas = np.array([0.01, 0.02, 0.05, 0.1])

    def exponent(lazy):
        gaps = [np.abs(solve(make(depth, gamma0)).f - lazy.f).max() for gamma0 in gammas]
        return np.polyfit(np.log(gammas), np.log(gaps), 1)[0]

    assert abs(exponent(solve(make(depth), method=Lazy())) - 2) < 0.02
    assert abs(exponent(solve(make(depth, eta0=0.303), method=Lazy())) - 2) > 0.1  # negative twin: eta0 off by 1 %
    static = solve(make(depth), method=Lazy())
    nearly = solve(make(depth, 1e-5))
    for name in ("f", "Phi", "G"):  # corrections are of order 1e-10
        np.testing.assert_allclose(getattr(nearly, name), getattr(static, name), atol=1e-8)


def test_one_sample_is_symmetric_under_transposition():
    """A linear network of one sample read backwards is the same network: Phi^l = G^{L+1-l}. Rounding only."""
    mean = solve(make(3, 2.0, ONE, 0.1, 30))
    np.testing.assert_allclose(mean.Phi, mean.G[::-1], rtol=1e-12)
    assert np.abs(mean.Phi - mean.G).max() > 0.1  # negative twin: the order of layers matters
    assert np.abs(mean.Phi[2, -1, 0, -1, 0] - 1) > 1  # and features moved


def test_whitened_data_learn_along_y_only():
    """Phi^0 = 1: the mode y / |y| follows one sample with rate eta0 / P, the orthogonal modes stand still (B5)."""
    task = tasks.whitened(4, input_dim=9)
    mean = solve(make(3, 1.5, task, 0.2, 60))
    along = task.y / np.linalg.norm(task.y)
    across = np.linalg.svd(along[None])[2][1:]
    one = solve(make(3, 1.5, Task([[1.0]], [np.linalg.norm(task.y)]), 0.2 / 4, 60))
    np.testing.assert_allclose(mean.f @ along, one.f[:, 0], rtol=1e-10)
    np.testing.assert_allclose(mean.f @ across.T, 0, atol=1e-12)
    modes = np.concatenate([along[None], across])
    Phi = np.einsum("am,ltmsn,bn->ltasb", modes, mean.Phi, modes)
    np.testing.assert_allclose(Phi[:, :, 0, :, 0], one.Phi[:, :, 0, :, 0], rtol=1e-10)
    for a, b in np.ndindex(4, 4):
        if (a, b) != (0, 0):
            np.testing.assert_allclose(Phi[:, :, a, :, b], float(a == b), atol=1e-10)
    assert np.abs(Phi[:, :, 0, :, 0] - 1).max() > 0.1  # negative twin: the mode along y does move


def test_kernels_are_symmetric_and_positive():
    """Gram matrices over (t, m): symmetric, no eigenvalue below rounding. Rank says more: G has one field per layer."""
    mean = solve(make(3))
    for kernel in (*mean.Phi, *mean.G):
        flat = kernel.reshape(44, 44)
        np.testing.assert_allclose(flat, flat.T, rtol=1e-12, atol=1e-13)
        values = np.linalg.eigvalsh(flat)
        assert values[0] > -1e-12 * values[-1]
    np.testing.assert_array_equal(mean.G, np.broadcast_to(mean.G[:, :, :1, :, :1], mean.G.shape))
    assert np.linalg.matrix_rank(mean.G[0].reshape(44, 44), tol=1e-8) > 2


def test_backward_field_times_forward_field_is_the_output(monkeypatch):
    """f_m = <g^l h^l_m> / gamma0 at every layer, since w . h^L = g^l . h^l in a linear network. Rounding only."""
    layers = []

    class Recorded(deep_linear._Layer):
        def __init__(self, *settings):
            super().__init__(*settings)
            layers.append(self)

    monkeypatch.setattr(deep_linear, "_Layer", Recorded)
    f = solve(make(4, 1.3)).f
    assert len(layers) == 4
    for layer in layers:
        gh = layer.gh.reshape(11, 11, 4)
        np.testing.assert_allclose(gh[range(11), range(11)] / 1.3, f, rtol=1e-10, atol=1e-12)
        assert not np.allclose(gh[range(1, 11), range(10)] / 1.3, f[1:], rtol=1e-2)  # negative twin: unequal times


def test_test_points_ride_along():
    """They change nothing for the train points; as copies of train points they get the same outputs."""
    X, y = TASK.X, TASK.y
    alone, doubled = (solve(make(2, task=Task(X, y, X_test))) for X_test in (None, X[::-1]))
    np.testing.assert_allclose(doubled.f[:, :3], alone.f, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(doubled.f[:, 3:], alone.f[:, ::-1], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(doubled.Phi[:, :, :3, :, :3], alone.Phi, rtol=1e-12, atol=1e-14)
    assert doubled.test_loss is None
    trained = solve(make(2, task=Task([*X, *X[::-1]], [*y, *-y])))  # negative twin: train on them
    assert not np.allclose(trained.f[:, :3], alone.f, rtol=1e-2)


def test_singular_inputs():
    """Equal samples and a zero input are nothing special."""
    mean = solve(make(2, task=Task([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], [1.0, 1.0, 1.0])))
    np.testing.assert_allclose(mean.f[:, 0], mean.f[:, 1], rtol=1e-14)
    assert (mean.f[:, 2] == 0).all()
    assert mean.loss[-1] < mean.loss[0]


def test_kept_steps_are_those_of_the_whole():
    problem = make(2)
    np.testing.assert_array_equal(solve(problem, [0, 4, 10]).Phi, solve(problem).Phi[:, [0, 4, 10]][:, :, :, [0, 4, 10]])
    np.testing.assert_array_equal(solve(problem, [3]).G, solve(problem).G[:, [3]][:, :, :, [3]])
    assert solve(problem, []).Phi.shape == (2, 0, 4, 0, 4)


@pytest.mark.parametrize("gamma0", [3.0, 4.0])
def test_trains_where_the_published_iteration_overflows(gamma0):
    """P = 10, T = 50, L = 3, eta0 = 0.05 : networks train smoothly, the Picard iteration gives NaN."""
    problem = make(3, gamma0, tasks.gaussian(10, input_dim=25), 0.05, 50)
    loss = solve(problem, [0, 50]).loss
    assert (np.diff(loss) < 0).all()
    assert loss[30] < 3e-3 * loss[0]


def test_divergence_is_a_status_with_its_cure():
    """No numpy warning on the way (warnings are errors in these tests)."""
    problem = make(3, task=tasks.gaussian(3, input_dim=6, seed=1), eta0=20.0, num_steps=60)
    estimate, status, _ = DeepLinear().run(problem, seed=0, kernel_steps=np.array([0, 60]), progress=False)
    assert not status.ok
    assert status.first_bad_step > 0
    assert not np.isfinite(estimate.mean.f[-1]).any()
    for kernel in (estimate.mean.Phi, estimate.mean.G):
        assert np.isnan(kernel[:, 1]).all()
        assert np.isfinite(kernel[:, 0, :, 0]).all()
    assert np.isfinite(estimate.mean.f[0]).all()
    solve(problem.replace(eta0=status.suggested_eta0, num_steps=10))


def test_other_activations_are_refused():
    with pytest.raises(ValueError, match=r"'tanh'.*March"):
        solve(make(2, activation="tanh"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"bias": 0.5}, "biases"),
        ({"batch_size": 2}, "mini-batches"),
        ({"momentum": 0.5, "weight_decay": 0.1}, "momentum, weight_decay"),
        ({"label_noise": 0.5}, "label_noise"),
        ({"temperature": 0.5}, "temperature"),
        ({"flow": True}, "flow"),
        ({"layer_rates": [1.0, 1.0, 2.0]}, "layer_rates"),
        ({"y": np.ones((3, 2)), "y_test": np.ones((1, 2))}, "2 outputs"),
    ],
)
def test_other_training_is_refused(setting, says):
    problem = make(2).replace(**setting)
    assert DeepLinear.obstacle(make(2)) is None
    assert DeepLinear.obstacle(problem).endswith(f"{says}: use March().")
    with pytest.raises(ValueError, match=rf"the problem has {says}: use March\(\)"):
        solve(problem)


def test_schedules_and_losses():
    """eta(t) is eta0 schedule[t]; a pause leaves everything as it is; any loss."""
    half, problem = [1.0] * 4 + [0.5] * 6, make(2, 1.5)
    np.testing.assert_allclose(solve(problem.replace(schedule=half)).f[:5], solve(problem).f[:5], rtol=1e-14)
    slow = solve(problem.replace(eta0=0.15, schedule=[2.0] * 4 + [1.0] * 6))
    np.testing.assert_allclose(slow.f, solve(problem.replace(schedule=half)).f, rtol=1e-12, atol=1e-15)
    assert not np.allclose(slow.f[6], solve(problem).f[6], rtol=1e-3)
    paused = solve(problem.replace(schedule=[1.0, 0.0] * 5))
    for name in ("f", "loss"):
        np.testing.assert_allclose(paused[name][1::2], paused[name][2::2], rtol=1e-13)
    np.testing.assert_allclose(paused.f[::2], solve(problem.replace(num_steps=5)).f, rtol=1e-12, atol=1e-15)
    huber = solve(problem.replace(loss=lambda f, y: jnp.sum(jnp.sqrt(1 + (f - y) ** 2))))
    assert (np.diff(huber.loss) < 0).all()
    assert huber.loss[0] == pytest.approx(np.mean(np.sqrt(1 + TASK.y**2)))
    # to first order in eta0: f(1) = eta0 K(0) Delta(0), with K(0) = (L + 1) Phi^0
    Delta = problem.replace(loss=lambda f, y: jnp.sum(jnp.sqrt(1 + (f - y) ** 2))).training.Delta(np.zeros(3), TASK.y)
    np.testing.assert_allclose(Delta, TASK.y / np.sqrt(1 + TASK.y**2) / 3, rtol=1e-12)
    kernel = solve(problem.replace(eta0=1e-6, loss=lambda f, y: jnp.sum(jnp.sqrt(1 + (f - y) ** 2)))).f[1] / 1e-6
    np.testing.assert_allclose(kernel, 3 * TASK.Phi0[:, :3] @ Delta, rtol=1e-4)


def test_what_is_saved():
    names = ("NTK", "eigenvalues", "sharpness")
    mean = DeepLinear().run(make(2), seed=0, kernel_steps=np.array([0, 10]), progress=False, save=names).trajectory.mean
    np.testing.assert_allclose(mean["NTK"], mean.tangent_kernel(TASK.Phi0))
    np.testing.assert_allclose(mean["NTK"][0], 3 * TASK.Phi0)
    np.testing.assert_allclose(mean["sharpness"], mean["eigenvalues"][:, 0])
    assert mean["sharpness"][1] > 1.01 * mean["sharpness"][0]


def test_sharpness_is_that_of_the_state():
    """With the logistic loss its Hessian s(f) (1 - s(f)) moves with f: that of every state, not of the one before (twin)."""
    task = Task(TASK.X, np.sign(TASK.y))
    problem = make(2, 1.5, task, 0.5, 6).replace(loss="logistic")
    kept = np.arange(7)
    mean = DeepLinear().run(problem, seed=0, kernel_steps=kept, progress=False, save=("NTK", "sharpness")).trajectory.mean
    s = 1 / (1 + np.exp(-mean.f))
    expected = [np.linalg.eigvals(K * (s_t * (1 - s_t)) / 3).real.max() for K, s_t in zip(mean["NTK"], s, strict=True)]
    early = [np.linalg.eigvals(K * (s_t * (1 - s_t)) / 3).real.max() for K, s_t in zip(mean["NTK"][1:], s, strict=False)]
    np.testing.assert_allclose(mean["sharpness"], expected, rtol=1e-10)
    assert not np.allclose(mean["sharpness"][1:], early, rtol=1e-3)


def test_memory_is_asked_for_first(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="March"):
        solve(make(2))


@pytest.mark.parametrize(("depth", "width", "num_seeds"), [(2, 32, 2000), (3, 64, 1200)])
def test_finite_networks_converge_to_it(depth, width, num_seeds):
    """f and every Phi^l, G^l within 3.5 standard errors of 2 <x>_2N - <x>_N.

    What is left, b / 2 N^2 relative, is below a standard error: <x>_N - <x>_2N, which is a / 2 N, was 0.4 % to 4 %.
    """
    problem = make(depth)
    nets = [small_networks(problem, N, num_seeds, seed) for seed, N in enumerate((width, 2 * width))]

    def worst(gamma0):
        theory = vars(solve(make(depth, gamma0)))
        return np.abs(extrapolated_z_scores(*(overlaps(runs, theory) for runs in nets))).max()

    assert worst(1.0) < 3.5
    assert worst(1.2) > 7  # negative twins: gamma0 off by 20 %
    assert worst(0.8) > 7


def test_plain_march_agrees():
    """Path derivatives on a grid, 8 replicas of 1000 paths, against the closed form: two algorithms, one limit.

    5 standard errors: Student's t with 7 degrees of freedom, 7 numbers, p = 0.002. Leaving out A or B is seen.
    """
    problem = make(3, task=tasks.gaussian(2, 1, input_dim=4, seed=1), num_steps=8)
    theory = vars(solve(problem))
    z = {
        name: z_scores(overlaps(replicas(problem, 1000, 8, **{name: True} if name else {}), theory))
        for name in ("", "drop_A", "drop_B")
    }
    assert np.abs(z[""]).max() < 5
    assert np.abs(z["drop_A"]).max() > 10
    assert np.abs(z["drop_B"]).max() > 10


def test_plain_march_is_the_limit_of_nonlinear_networks():
    """The oracle of other tests, itself tested: tanh, depth 2; without B the loss looks fine, G^1 does not."""
    problem = make(2, activation="tanh")
    nets = [small_networks(problem, N, 1000, seed) for seed, N in enumerate((32, 64))]

    def z(**settings):
        runs = replicas(problem, 1000, 4, **settings)
        theory = {name: runs[name].mean(0) for name in runs}
        noise = overlaps(runs, theory).std(0, ddof=1) / 2  # the theory's own standard error
        at_N, at_2N = (overlaps(run, theory) for run in nets)
        sem = np.sqrt((4 * at_2N.var(0) + at_N.var(0)) / 1000 + noise**2)
        return np.abs(2 * at_2N.mean(0) - at_N.mean(0)) / sem

    assert z().max() < 4
    without_B = z(drop_B=True)
    assert without_B[3] > 6  # G^1
    assert without_B.argmax() == 3
