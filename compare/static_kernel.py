"""A network's tangent kernel used as a kernel: does it predict the network, and is it better to average kernels or outputs?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from widthwise import Result, Task, check, kernel_descent
from widthwise.checked import checked
from widthwise.jackknife import jackknife
from widthwise.kernel_spectra import ntk_of

Losses = Float[np.ndarray, "predictors states"]

PREDICTORS = {
    "network": "networks, one by one",
    "networks": "mean of the networks' outputs",
    "kernel": "each one's kernel, one by one",
    "outputs": "mean of the kernels' outputs",
    "mean_kernel": "the mean kernel's output",
}


@dataclass(frozen=True)
class KernelPredictors:
    """Losses of networks and of the static kernels taken from them, with errors over seeds; prints as a table.

    Rows, by name: "network", the loss of single networks, averaged; "networks", that of their mean output; "kernel", of a
    predictor with each network's own kernel, averaged; "outputs", of the mean of these predictors' outputs; "mean_kernel", of
    the one predictor with the mean kernel. Predictors are not linear in the kernel, so the last two differ.

    Attributes:
        step: the step of the kernel.
        how: how the kernel was used, in words.
        num_runs: number of networks.
        states: steps of the losses' states.
        train, train_error: (5, states) losses; states are those of training, or the one of a regression.
        test, test_error: (5, states); None without test targets.
        train_limit, test_limit: (5, states) with the bias of a finite number of seeds taken out: as of infinitely many.
        f: (runs, states, M) outputs of each network's own kernel.
    """

    step: int
    how: str
    num_runs: int
    states: Int[np.ndarray, "states"]
    train: Losses
    train_error: Losses
    train_limit: Losses
    test: Losses | None
    test_error: Losses | None
    test_limit: Losses | None
    f: Float[np.ndarray, "runs states points"]

    def __getitem__(self, name: str) -> tuple[Float[np.ndarray, "states"], Float[np.ndarray, "states"]]:
        """Test loss (train loss if there is none) of a predictor by name, and its standard error."""
        i = [*PREDICTORS].index(check.choice("a predictor", name, PREDICTORS))
        if self.test is None or self.test_error is None:
            return self.train[i], self.train_error[i]
        return self.test[i], self.test_error[i]

    def __str__(self) -> str:
        lines = [f"kernel of step {self.step}, {self.how}; {self.num_runs} networks; losses at the end (infinitely many seeds)"]
        for i, words in enumerate(PREDICTORS.values()):
            row = (
                f"  {words:31s} train {self.train[i, -1]:.4g} +- {self.train_error[i, -1]:.1g} ({self.train_limit[i, -1]:.4g})"
            )
            if self.test is not None and self.test_error is not None and self.test_limit is not None:
                row += f"   test {self.test[i, -1]:.4g} +- {self.test_error[i, -1]:.1g} ({self.test_limit[i, -1]:.4g})"
            lines.append(row)
        return "\n".join(lines)

    def plot(self) -> Any:
        """A matplotlib Figure of the losses against the step; of a regression the network's last state alone."""
        import matplotlib.pyplot as plt  # imported where used: heavy

        panels = [("train", self.train, self.train_error), ("test", self.test, self.test_error)]
        there = [(name, loss, error) for name, loss, error in panels if loss is not None and error is not None]
        figure, axes = plt.subplots(1, len(there), figsize=(4.2 * len(there), 3.2), layout="constrained", squeeze=False)
        for ax, (name, loss, error) in zip(axes[0], there, strict=True):
            for i, words in enumerate(PREDICTORS.values()):
                if loss.shape[1] > 1:
                    ax.plot(self.states, loss[i], color=f"C{i}", label=words)
                    ax.fill_between(self.states, *(loss[i] + s * error[i] for s in (-1, 1)), color=f"C{i}", alpha=0.25)
                else:
                    ax.errorbar([i], loss[i], error[i], fmt="o", color=f"C{i}", label=words)
            ax.set(xlabel="step" if loss.shape[1] > 1 else "", ylabel=f"{name} loss")
            if loss.shape[1] == 1:
                ax.set_xticks([])
        axes[0, 0].legend(frameon=False, fontsize="small")
        return figure


@checked
def static_kernel(result: Result, *, step: int | None = None, ridge: float | None = None) -> KernelPredictors:
    """Take the tangent kernels of a Result at one step as kernels that stand still, and train or regress with them.

    With the kernel of the last step, the after-kernel, this asks whether what a network has learned is in its kernel; with
    that of step 0, what the lazy network would have done.

        training:    f(t+1) = f(t) + eta K Delta(t), f(0) = 0, as the Problem says (`kernel_descent`)
        regression:  f = K_.,train (K_train,train + ridge)^-1 y, against the networks' last state

    Args:
        result: an ensemble with save=["NTK"].
        step: a kept step; by default the last.
        ridge: None trains; a number regresses: 0 is the interpolating limit of training.

    Raises:
        ValueError: no tangent kernels, a step that was not kept, a singular regression, another loss than mse for it, or
            training that function space does not know (online, decay, ...).

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(4, 4, input_dim=8), GradientDescent(0.5, 10))
        >>> found = static_kernel(finite.train(problem, width=32, num_seeds=4, save=["NTK"], progress=False))
        >>> found.train.shape, found.f.shape, found.step
        ((5, 11), (4, 11, 8), 10)
    """
    runs, problem, n = ntk_of(result), result.problem, result.trajectory.n
    if not isinstance(problem.task, Task):
        raise ValueError("static_kernel trains on the points of a Task; of a Stream no train points are watched.")
    kept = np.asarray(result.mean.kernel_steps).tolist()
    step = kept[-1] if step is None else step
    if step not in kept:
        raise ValueError(f"step must be one at which kernels were kept, {kept}; got {step!r}. Pass save_kernels=[{step!r}].")
    if n == 0:
        runs = runs[None]
    K, states = runs[:, kept.index(step)], np.asarray(result.mean.steps)
    outputs = np.asarray(result.mean.f, dtype=np.float64)[None] if n == 0 else np.asarray(result.samples.f, dtype=np.float64)
    if ridge is None:
        how = f"trained for {problem.training.num_steps} steps"

        def predict(kernel: Float[np.ndarray, "points points"]) -> Float[np.ndarray, "states points"]:
            return kernel_descent(problem, kernel)[states]
    else:
        how, outputs = f"regression with ridge {check.at_least_zero('ridge', ridge):g}", outputs[:, -1:]

        def predict(kernel: Float[np.ndarray, "points points"]) -> Float[np.ndarray, "states points"]:
            return _regress(result, kernel, float(ridge))[None]

    f = np.array([predict(each) for each in K])
    losses = _losses(result)
    single = np.array([losses(each) for each in outputs]), np.array([losses(each) for each in f])

    def measure(weights: Float[np.ndarray, "runs"]) -> Float[np.ndarray, "predictors sets states"]:
        w = weights if n else np.ones(1)
        mean = [np.tensordot(w, x, 1) for x in (single[0], outputs, single[1], f, K)]
        return np.array([mean[0], losses(mean[1]), mean[2], losses(mean[3]), losses(predict(mean[4]))])

    value, error, limit = jackknife(measure, n)
    tested = value.shape[1] == 2
    test, test_error, test_limit = (x[:, 1] if tested else None for x in (value, error, limit))
    states = states if ridge is None else states[-1:]
    train, train_error, train_limit = value[:, 0], error[:, 0], limit[:, 0]
    return KernelPredictors(int(step), how, n, states, train, train_error, train_limit, test, test_error, test_limit, f)


def _losses(result: Result) -> Any:
    """f (states, M[, C]) -> train and, if there are targets, test losses (sets, states)."""
    task, training, P = result.problem.task, result.problem.training, result.problem.task.num_train

    def losses(f: Float[np.ndarray, "states points"]) -> Float[np.ndarray, "sets states"]:
        sets = [training.loss_of(f[:, :P], task.y)]
        if task.y_test is not None:
            sets.append(training.loss_of(f[:, P:], task.y_test))
        return np.array(sets)

    return losses


def _regress(result: Result, K: Float[np.ndarray, "points points"], ridge: float) -> Float[np.ndarray, "points"]:
    task, P = result.problem.task, result.problem.task.num_train
    if result.problem.training.loss.name != "mse" or result.problem.training.online:
        raise ValueError("regression is that of loss='mse' on a Task that is not online: leave ridge out, or change training.")
    A = K[:P, :P] + ridge * np.eye(P)
    if np.linalg.cond(A) > 1e10:
        raise ValueError(f"the kernel between train points is singular (ridge {ridge:g}): pass a ridge, e.g. ridge=1e-3.")
    return K[:, :P] @ np.linalg.solve(A, task.y)
