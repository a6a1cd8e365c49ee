"""Simplicity bias: measures against known answers, the infinite-width limit against networks."""

from __future__ import annotations

import numpy as np
import pytest

import compare
import dmft
import finite
from tests.test_readme import DOCS, scripts
from widthwise import MLP, Estimate, GradientDescent, Parameterization, Problem, Result, Status, Task, Trajectory, tasks

D = 6
E1 = np.eye(D)[0]


def make(task, gamma0=8.0, activation="relu", loss="logistic", eta0=0.2, num_steps=40, bias=1.0) -> Problem:
    return Problem(MLP(1, activation, bias), Parameterization(gamma0), task, GradientDescent(eta0, num_steps, loss))


def result_of(task, f, **samples) -> Result:
    """A Result that holds these outputs f (n, T, M); one run (T, M) is exact."""
    f = np.asarray(f, dtype=float)
    problem = make(task, num_steps=f.shape[-2] - 1 or 1)
    steps, loss = np.arange(f.shape[-2]), np.zeros(f.shape[:-1])
    trajectory = Trajectory(steps, f, loss, None, np.arange(0))
    estimate = Estimate.of(trajectory) if f.ndim == 3 else Estimate.exact(trajectory)
    return Result(problem, estimate, Status(True, "made up"), {}, {})


def with_fields(problem, **fields) -> Result:
    """A Result of two runs that holds these fields (2, 1, 1, M, N)."""
    zeros = np.zeros((2, 2, problem.task.num_points))
    trajectory = Trajectory(np.arange(2), zeros, zeros[..., 0], None, np.arange(1), more=fields)
    return Result(problem, Estimate.of(trajectory), Status(True, "made up"), {}, {})


# --- the data --------------------------------------------------------------------------------------------------------------


def test_independent_features():
    """As the equation says; the first coordinate is separated by a line, slabs by their size and by no line."""
    task = tasks.independent_features(4000, 2000, input_dim=8, margin=1.5, num_slabs=4, slab=2.0, noise=0.3)
    X, y = task.X, task.y
    assert (X[:, 0] == 1.5 * y).all()
    assert y.sum() == 0 == task.y_test.sum()
    slabs, rest = X[:, 1:5], X[:, 5:]
    assert ((np.abs(slabs) > 1) == (y[:, None] > 0)).mean() > 0.998  # 1 is 3.3 sigma from either
    np.testing.assert_allclose(slabs[y > 0].std(0), np.hypot(2.0, 0.3), rtol=0.02)
    np.testing.assert_allclose(slabs[y < 0].std(0), 0.3, rtol=0.1)
    np.testing.assert_allclose(rest.std(0), 1.0, rtol=0.05)
    line = np.linalg.lstsq(X[:, 1:], y, rcond=None)[0]
    assert abs((np.sign(task.X_test[:, 1:] @ line) == task.y_test).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    quadratic = (np.abs(task.X_test[:, 1:5]).sum(1) > 4) == (task.y_test > 0)
    assert quadratic.mean() > 0.99  # negative twin of "no line": another function knows
    of_class = X[y > 0][:, 1:5]
    assert np.abs(np.corrcoef(of_class.T) - np.eye(4)).max() < 4.5 / np.sqrt(2000)  # independent given y
    again = tasks.independent_features(4000, 2000, input_dim=8, margin=1.5, num_slabs=4, slab=2.0, noise=0.3)
    assert np.array_equal(again.X, X)
    assert not np.array_equal(tasks.independent_features(4000, input_dim=8, seed=1).X, X)


def test_swapped_and_without():
    task = tasks.independent_features(8, 20, input_dim=D)
    directions = np.random.default_rng(0).standard_normal((2, D))
    Pi = directions.T @ np.linalg.inv(directions @ directions.T) @ directions
    x, rest, part = np.split(tasks.swapped(task, directions, seed=3).X_test, 3)
    np.testing.assert_allclose(rest @ Pi, x @ Pi, atol=1e-12)
    np.testing.assert_allclose(part - part @ Pi, x - x @ Pi, atol=1e-12)
    other = [int(np.abs(task.X_test - z).max(1).argmin()) for z in rest + part - x]
    assert (task.y_test[other] == -task.y_test).all()
    swapped = tasks.swapped(task, directions, seed=3)
    assert np.array_equal(swapped.y_test, np.concatenate([task.y_test, task.y_test, -task.y_test]))
    assert np.array_equal(swapped.X, task.X)
    left = tasks.without(task, directions)
    np.testing.assert_allclose(left.X_all @ Pi, 0, atol=1e-12)
    np.testing.assert_allclose(left.X_all, task.X_all - task.X_all @ Pi, atol=1e-12)
    assert tasks.without(tasks.independent_features(8, input_dim=D), E1).X_test is None


def test_classes_in_rows():
    """One-hot targets: classes by the largest."""
    task = tasks.digits(6, 12, classes=(0, 1, 2))
    _, rest, directions = np.split(tasks.swapped(task, np.eye(64)[20]).y_test.argmax(1), 3)
    assert (rest != directions).all()


@pytest.mark.parametrize(
    ("make_task", "message"),
    [
        (
            lambda t: tasks.independent_features(8, input_dim=4, num_slabs=4),
            "num_slabs must be at most input_dim - 1 = 3, got 4",
        ),
        (lambda t: tasks.independent_features(8, margin=0.0), "margin must be finite and above zero"),
        (lambda t: tasks.independent_features(8, noise=-1.0), "noise must be finite and not negative"),
        (lambda t: tasks.swapped(t, np.ones(3)), "independent rows of length D = 6, got shape"),
        (lambda t: tasks.swapped(t, [E1, 2 * E1]), "independent rows"),
        (lambda t: tasks.without(t, np.zeros(D)), "independent rows"),
        (lambda t: tasks.swapped(Task(t.X, t.y), E1), "swapped needs test points"),
        (lambda t: tasks.swapped(Task(t.X, t.y, t.X, np.ones(8)), E1), "two classes, got one"),
    ],
)
def test_errors_of_tasks(make_task, message):
    with pytest.raises(ValueError, match=message):
        make_task(tasks.independent_features(8, 4, input_dim=D))


# --- the swap test, on functions that are known ------------------------------------------------------------------------------


def test_swaps_of_known_functions():
    """A function of Pi x: nothing by the rest, everything by Pi x. One of the rest: the other way round."""
    task = tasks.swapped(tasks.independent_features(4, 40, input_dim=D, margin=1.0), E1)
    X = task.X_all
    of_line, of_rest = np.tanh(3 * X[:, 0]), np.abs(X[:, 1:]).sum(1) - 6
    for f, rest, line in ((of_line, 0.0, 1.0), (of_rest, 1.0, 0.0)):
        for result in (result_of(task, [f, f]), result_of(task, [[f, f], [2 * f, 2 * f]])):
            test = compare.swap_test(result)
            assert test.rest.value[-1] == pytest.approx(rest, abs=0.05)  # |x_j| sums overlap by a point or none
            assert test.directions.value[-1] == pytest.approx(line, abs=0.05)
            assert (test.rest.error == 0).all()
    test = compare.swap_test(result_of(task, [of_line, of_line]))
    assert test.rest.value[-1] == test.rest_output.value[-1] == 0.0  # exactly
    assert test.directions.value[-1] == 1.0
    assert test.directions_output.value[-1] == pytest.approx(2.0)  # f -> -f
    both = compare.swap_test(result_of(task, [of_line, of_line + 1e-3 * of_rest]))
    assert both.rest_output.value[0] == 0.0
    assert both.rest_output.value[-1] > 1e-4  # negative twin: a little of the rest is seen
    assert "the rest" in str(both)


def test_swaps_with_errors():
    """Two runs that differ: mean and standard error over runs."""
    task = tasks.swapped(tasks.independent_features(4, 40, input_dim=D), E1)
    line, constant = task.X_all[:, 0], np.ones(task.num_points)
    test = compare.swap_test(result_of(task, [[line] * 2, [constant] * 2]))
    assert test.directions.value[-1] == 0.5
    assert test.directions.error[-1] == pytest.approx(0.5)


def test_swap_test_needs_swapped_points():
    task = tasks.independent_features(4, 12, input_dim=D)
    for wrong in (task, Task(task.X, task.y), Task(task.X, task.y, task.X_test[:11], task.y_test[:11])):
        with pytest.raises(ValueError, match=r"train on that task"):
            compare.swap_test(result_of(wrong, np.ones((2, wrong.num_points))))


# --- joint errors ------------------------------------------------------------------------------------------------------------


def test_joint_errors_of_known_models():
    task = tasks.independent_features(2, 8, input_dim=D)
    y = task.y_test
    wrong_at = lambda *points: np.where(np.isin(np.arange(8), points), -y, y)  # noqa: E731

    def result(*outputs):
        f = np.stack([np.concatenate([task.y, out]) for out in outputs])
        return result_of(task, f[:, None, :] * np.ones((1, 2, 1)))

    a, b, same = result(wrong_at(0, 1)), result(wrong_at(2, 3) * 3), result(wrong_at(0, 1))
    seen = compare.joint_errors(a, same)
    assert seen.first.value == seen.second.value == seen.average.value == 0.75
    assert seen.correlation.value == pytest.approx(1.0)
    assert seen.first.error == np.inf  # a single run
    seen = compare.joint_errors(a, b)
    assert seen.correlation.value == pytest.approx(-1 / 3)  # (0 - 1/16) / (3/16)
    assert seen.average.value == 0.75  # the larger output decides
    assert compare.joint_errors(a, b, points=[0, 1]).first.value == 0.0
    assert compare.joint_errors(a, b, points=slice(4, 8)).correlation is None
    assert "no errors" in str(compare.joint_errors(a, b, points=slice(4, 8)))
    runs = compare.joint_errors(result(wrong_at(0), wrong_at(0, 1)), result(wrong_at(0), wrong_at(2, 3)))
    assert runs.first.value == pytest.approx(0.8125)
    assert runs.first.error == pytest.approx(0.0625)
    assert 0 < runs.correlation.error < np.inf
    with pytest.raises(ValueError, match="as many runs"):
        compare.joint_errors(a, result(y, y))
    with pytest.raises(ValueError, match="chooses none"):
        compare.joint_errors(a, b, points=[])


# --- the first layer, in closed form -----------------------------------------------------------------------------------------


def linear_moments(problem: Problem) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """<W W^T> and <z^2 W W^T> of linear networks at every step: second moments close on themselves, neurons are Gaussian.

    W <- W + z a,  z <- z + a.W,  a = eta0 gamma0 sum_m Delta_m x_m / sqrt(D);   <z^2 W W^T> = <z^2> <W W^T> + 2 <z W> <z W>^T
    """
    X, y, gamma0 = problem.task.X / np.sqrt(D), problem.task.y, problem.parameterization.gamma0
    M, m, q = np.eye(D), np.zeros(D), 1.0
    plain, weighted = [], []
    for _ in range(problem.training.num_steps + 1):
        plain.append(M)
        weighted.append(q * M + 2 * np.outer(m, m))
        a = problem.training.eta0 * gamma0 * (y - X @ m / gamma0) @ X / len(y)
        M, m, q = (
            M + np.outer(m, a) + np.outer(a, m) + q * np.outer(a, a),
            m + M @ a + q * a + (m @ a) * a,
            q + 2 * m @ a + a @ M @ a,
        )
    return plain, weighted


def test_linear_networks_have_the_moments_of_the_closed_form():
    problem = make(tasks.gaussian(16, input_dim=D), 2.0, "linear", "mse", 0.2, 12, 0.0)
    plain, weighted = linear_moments(problem)
    for method in (dmft.TwoLayer(256, 8), dmft.March(num_paths=256, num_replicas=8)):
        theory = dmft.solve(problem, method, save=["h", "z"], save_kernels=[0, 6, 12], progress=False)
        layer = compare.first_layer(theory, weighted=False)
        np.testing.assert_allclose(layer.moments.mean(0), np.array(plain)[[0, 6, 12]], rtol=2e-2, atol=2e-2)
    theory = dmft.solve(problem, dmft.TwoLayer(512, 16), save=["h", "z"], save_kernels=[0, 6, 12], progress=False)
    layer = compare.first_layer(theory, weighted=False)
    np.testing.assert_allclose(layer.moments, np.broadcast_to(np.array(plain)[[0, 6, 12]], layer.moments.shape), atol=1e-9)
    layer = compare.first_layer(theory)
    mean, error = layer.moments.mean(0), layer.moments.std(0, ddof=1) / 4
    away = np.abs(mean - np.array(weighted)[[0, 6, 12]]) / error
    assert away.max() < 5.5  # 108 numbers
    wrong = np.abs(mean - np.array(linear_moments(problem.replace(gamma0=2.4))[1])[[0, 6, 12]]) / error
    assert wrong[1:].max() > 10  # negative twin: gamma0 off by 20 %
    values = np.linalg.eigvalsh(plain[-1])
    p = values / values.sum()
    plain_layer = compare.first_layer(theory, weighted=False)
    assert plain_layer.share().value[-1] == pytest.approx(p[-1])
    assert plain_layer.effective_rank().value[-1] == pytest.approx(np.exp(-np.sum(p * np.log(p))))
    assert plain_layer.effective_rank().value[0] == pytest.approx(D)


def test_one_feature_is_rank_one():
    """Data that vary along one direction alone: all of the weights that can be seen, exactly; another coordinate ends that."""
    direction = np.array([3.0, 4.0, 0, 0, 0, 0]) / 5
    X = np.linspace(-2, 2, 8)[:, None] * direction
    problem = make(Task(X, np.sign(X[:, 0])), bias=0.0)
    for result in (
        dmft.solve(problem, dmft.TwoLayer(64, 2, quadrature=False), save=["h", "z"], progress=False),
        finite.train(problem, width=8, num_seeds=2, save=["h", "z"], progress=False),
    ):
        layer = compare.first_layer(result)
        np.testing.assert_allclose(layer.share().value, 1.0, atol=1e-6)
        np.testing.assert_allclose(layer.effective_rank().value, 1.0, atol=1e-4)
        np.testing.assert_allclose(np.abs(layer.direction), direction, atol=1e-4)
        np.testing.assert_allclose(layer.share(E1).value, 0.36, atol=1e-6)
    X[0, 5] = 1.0
    two = dmft.solve(problem.replace(task=Task(X, problem.task.y)), dmft.TwoLayer(64, 2, quadrature=False), save=["h", "z"])
    assert compare.first_layer(two).effective_rank().value[-1] > 1.01


def test_weights_of_networks_are_those_of_the_fields():
    """With biases, from h alone: outputs made of the recovered W, and of z, are the network's; C is of them."""
    task = tasks.independent_features(16, input_dim=D)
    net = finite.train(make(task), width=32, num_seeds=3, save=["h", "z"], dtype="float64", progress=False)
    h, z = net.samples["h"][:, :, 0], net.samples["z"][:, :, 0, 0]
    f = np.einsum("rki,rkmi->rkm", z, np.maximum(h, 0)) / (8.0 * 32)
    f = f - f[:, :1]  # and the output bias, which is the same for all points
    shift = net.samples.f[:, [0, -1]] - f
    np.testing.assert_allclose(shift, shift[..., :1] * np.ones(16), atol=1e-9)
    points = np.concatenate([task.X / np.sqrt(D), np.ones((16, 1))], axis=1)
    W = np.linalg.lstsq(points, h[1, 1], rcond=None)[0][:D]
    np.testing.assert_allclose(points[:, :D] @ W + (h[1, 1] - points[:, :D] @ W)[0], h[1, 1], atol=1e-9)
    C = (W * z[1, 1] ** 2) @ W.T / 32
    np.testing.assert_allclose(compare.first_layer(net).moments[1, 1], C, rtol=1e-9)


def test_errors_of_first_layer():
    task = tasks.independent_features(4, input_dim=D)
    fields = {"h": np.ones((2, 1, 1, 4, 3)), "z": np.ones((2, 1, 1, 4, 3))}
    deep = Problem(MLP(2, "tanh"), Parameterization(), task, GradientDescent(0.1, 1))
    two = make(Task(task.X, np.eye(2)[[0, 1, 0, 1]]), loss="mse")
    for problem, message in ((deep, "one hidden layer"), (two, "pass weighted=False")):
        with pytest.raises(ValueError, match=message):
            compare.first_layer(with_fields(problem, **fields))
    assert compare.first_layer(with_fields(two, h=fields["h"]), weighted=False).moments.shape == (2, 1, D, D)
    for there in ({}, {"h": fields["h"]}):
        with pytest.raises(ValueError, match=r'pass save=\["h", "z"\]'):
            compare.first_layer(with_fields(make(task), **there))
    with pytest.raises(ValueError, match=r'pass save=\["h", "z"\]'):
        compare.first_layer(result_of(task, np.zeros((2, 4))))  # exact: no samples
    layer = compare.first_layer(with_fields(make(task), **fields))
    assert "top direction" in str(layer)
    for wrong in (np.zeros(D), np.ones(D - 1)):
        with pytest.raises(ValueError, match="direction must be a vector of length D = 6"):
            layer.share(wrong)


# --- the phenomenon, and the limit against networks --------------------------------------------------------------------------


def phenomenon(gamma0, loss="logistic", margin=1.0, num_train=48, num_steps=40, eta0=0.2) -> Problem:
    task = tasks.swapped(tasks.independent_features(num_train, 32, input_dim=D, margin=margin), E1)
    return make(task, gamma0, loss=loss, num_steps=num_steps, eta0=eta0)


def limit_of(problem: Problem, num_paths: int = 512) -> Result:
    return dmft.solve(problem, dmft.TwoLayer(num_paths, 8), save=["h", "z"], progress=False)


def test_lazy_networks_keep_their_weights():
    """C moves by order gamma0^2; at gamma0 = 8 the share is nearly all."""
    lazy = compare.first_layer(limit_of(phenomenon(1e-2)))
    np.testing.assert_allclose(lazy.share(E1).value[1] - lazy.share(E1).value[0], 0, atol=3e-2)
    np.testing.assert_allclose(lazy.moments[:, 1], lazy.moments[:, 0], atol=0.05)
    rich = compare.first_layer(limit_of(phenomenon(8.0)))
    assert rich.share(E1).value[1] > 0.9
    assert rich.effective_rank().value[1] < 2 < 0.9 * D < lazy.effective_rank().value[1]


def test_swaps_in_the_lazy_limit():
    """Particles at gamma0 = 0.01 against the kernel of the limit gamma0 -> 0, which is exact; at gamma0 = 1 no longer."""
    kernel = compare.swap_test(dmft.solve(phenomenon(1.0), dmft.Lazy(), progress=False))
    assert kernel.rest_output.error[-1] == 0.0
    for gamma0, same in ((1e-2, True), (1.0, False)):
        particles = compare.swap_test(dmft.solve(phenomenon(gamma0), dmft.TwoLayer(512, 8), progress=False))
        for mine, exact in (
            (particles.rest_output, kernel.rest_output),
            (particles.directions_output, kernel.directions_output),
        ):
            apart = abs(mine.value[-1] - exact.value[-1])
            assert (apart < 4 * mine.error[-1] + 1e-3 * exact.value[-1]) == same, (gamma0, apart, mine.error[-1])


@pytest.mark.parametrize(("loss", "eta0"), [("logistic", 0.2), pytest.param("mse", 0.05, marks=pytest.mark.slow)])
def test_limit_against_networks(loss, eta0):
    """Share, rank and outputs of networks, extrapolated in 1/N, are those of the limit; width 4 itself is not."""
    problem = phenomenon(4.0, loss, eta0=eta0)
    theory = limit_of(problem, 2048)
    nets = {
        N: finite.train(problem, width=N, num_seeds=n, save=["h", "z"], progress=False)
        for N, n in ((4, 512), (128, 48), (256, 48))
    }

    def of(result: Result) -> np.ndarray:
        layer, test = compare.first_layer(result), compare.swap_test(result)
        numbers = (layer.share(E1), layer.share(), layer.effective_rank(), test.rest_output, test.directions_output)
        return np.array([[x.value[-1], x.error[-1]] for x in numbers]).T

    (value, error), found = of(theory), {N: of(net) for N, net in nets.items()}
    wide = 2 * found[256][0] - found[128][0]
    noise = np.sqrt(4 * found[256][1] ** 2 + found[128][1] ** 2 + error**2)
    assert (np.abs(wide - value) < 4 * noise).all(), (wide, value, noise)
    assert (noise < 0.1 * value).all()
    narrow = np.abs(found[4][0] - value) / np.hypot(found[4][1], error)
    assert narrow.max() > 8  # negative twin
    other = of(limit_of(problem.replace(gamma0=4.8)))
    assert (np.abs(other[0] - wide) / noise).max() > 4  # gamma0 off by 20 %


def test_script_of_the_page(capsys):
    """It runs as written, and says that the theory and the networks see one direction."""
    page: dict = {}
    for script in scripts(DOCS / "scaling" / "simplicity_bias.md"):
        exec(script, page)
    shown = capsys.readouterr().out
    assert shown.count("the rest   swapped") == 2
    assert "correlation of errors" in shown
    for result in (page["theory"], page["nets"]):
        assert compare.first_layer(result).direction[0] > 0.9
        assert compare.swap_test(result).rest.value[-1] < 0.05
