"""How a loss falls along the modes of a kernel, static or moving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from widthwise import GradientDescent, Result, Spectrum
from widthwise.checked import checked
from widthwise.kernel_descent import kernel_descent
from widthwise.kernel_spectra import ntk_of


@dataclass(frozen=True)
class StaticTraining:
    """Training with a kernel that stands still, mode by mode.

    Attributes:
        residual: (T+1, k) what is left of the target's amplitude in every entry of the spectrum.
        mode_losses: (T+1, k) multiplicity power residual^2 / 2, the part of the loss in every entry.
        loss: (T+1,) their sum, with the rest of the power, which is not learned.
    """

    residual: Float[np.ndarray, "states entries"]
    mode_losses: Float[np.ndarray, "states entries"]
    loss: Float[np.ndarray, "states"]


@checked
def static_training(spectrum: Spectrum, training: GradientDescent) -> StaticTraining:
    """Loss of kernel gradient descent, or flow, on mse from f(0) = 0, over the distribution (or points) of the spectrum.

        gradient descent:  residual_k(t+1) = (1 - eta(t) lam_k) residual_k(t)            flow:  exp(-tau lam_k)
        loss = sum_k power_k residual_k^2 / 2,   residual_k(0) = 1

    and with momentum likewise. For `Spectrum.of_kernel(NTK, y)` of all P train points this is the train loss of `Lazy`.

    Raises:
        ValueError: mini-batches, noise or decay, which mix modes; another loss.

    Example:
        >>> static_training(Spectrum([1.0, 0.5], [1.0, 1.0]), GradientDescent(0.5, 2)).residual.tolist()
        [[1.0, 1.0], [0.5, 0.75], [0.25, 0.5625]]
    """
    if training.loss.name != "mse" or not training.full_batch:
        raise ValueError("modes learn independently under full-batch training on loss='mse' alone.")
    for name in ("weight_decay", "temperature", "label_noise", "optimizer"):
        if getattr(training, name):
            raise ValueError(f"static_training goes without {name}: leave it out.")
    etas, lam = training.step_sizes, spectrum.lam
    if training.flow:
        residual = np.exp(-np.concatenate([[0.0], np.cumsum(etas)])[:, None] * lam)
    else:
        residual, velocity, m = np.ones((len(etas) + 1, len(lam))), np.zeros(len(lam)), training.momentum
        with np.errstate(over="ignore", invalid="ignore"):  # rates beyond 2 / lam diverge, and say so as inf
            for t, eta in enumerate(etas):
                G = -lam * residual[t]
                velocity = m * velocity + G
                residual[t + 1] = residual[t] + eta * (G + m * velocity if training.nesterov else velocity)
    with np.errstate(over="ignore", invalid="ignore"):
        mode_losses = spectrum.multiplicity * spectrum.power * residual**2 / 2
    return StaticTraining(residual, mode_losses, mode_losses.sum(1) + spectrum.rest_power / 2)


@dataclass(frozen=True)
class MovingLoss:
    """The loss as the measured kernels predict it, beside the one that was measured.

    Attributes:
        f: (T+1, M) outputs, integrated with the moving mean kernel.
        loss, test_loss: (T+1,) of f; test_loss None without test targets.
        rate: (K,) Delta^T Kbar Delta / (P |Delta|^2) at the kept steps, the decay rate of the loss per unit of eta0, halved.
    """

    f: Float[np.ndarray, "states points"]
    loss: Float[np.ndarray, "states"]
    test_loss: Float[np.ndarray, "states"] | None
    rate: Float[np.ndarray, "kept"]


@checked
def moving_loss(result: Result) -> MovingLoss:
    """Integrate f with a Result's tangent kernels at the kept steps, linear in between (`widthwise.kernel_descent`).

    It equals the Result's own f up to terms of order eta0^2 and of the kept steps' distance squared, and for an ensemble up to
    Cov(K, Delta) over seeds: d<Delta>/dt = -eta (<K><Delta> + Cov(K, Delta)).

    Raises:
        ValueError: NTK was not saved; training that function space does not know.

    Example:
        >>> import dmft
        >>> from widthwise import MLP, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "linear"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.05, 20))
        >>> theory = dmft.solve(problem, save_kernels=range(21), save=["NTK"])
        >>> bool(np.allclose(moving_loss(theory).loss, theory.mean.loss, rtol=0.05))
        True
    """
    runs = ntk_of(result)
    K = runs if result.trajectory.n == 0 else runs.mean(0)
    problem, steps = result.problem, np.asarray(result.mean.kernel_steps)
    if len(result.mean.steps) != problem.training.num_steps + 1:
        raise ValueError("moving_loss needs f at every step, as dmft.solve and finite.train record it for an MLP on a Task.")
    f = kernel_descent(problem, K, steps)
    task, training, P = problem.task, problem.training, problem.task.num_train
    test = None if task.y_test is None else training.loss_of(f[:, P:], task.y_test)
    Delta = (task.y - np.asarray(result.mean.f)[steps, :P]).reshape(len(steps), P, -1)
    size = np.maximum((Delta**2).sum((1, 2)), np.finfo(float).tiny)
    rate = np.einsum("kmc,kmn,knc->k", Delta, K[:, :P, :P], Delta) / (P * size)
    return MovingLoss(f, training.loss_of(f[:, :P], task.y), test, rate)
