"""Random features trained step by step, by causal dynamical mean-field theory in the time domain (2402.01092).

The model is f = w . A psi / k, w(0) = 0, with k features A psi, trained on n samples. With v0 = w* - A^T w / k the fields are

    v1 = psi . v0 + noise      v2 = mean over samples of psi v1      v3 = A v2      v4 = A^T v3 / k      v0 = w* 1 - B v4

B is the causal operator that turns gradients into weights: B(t, s) = eta for s < t under gradient descent, the response of the
update rule to an impulse in general (momentum, schedules, decay). In times x times matrices, with u = 1 / k, r = 1 / n,

    H_k = (I + lam_k B R3 R1)^-1                      the mean residual of mode k is w*_k H_k 1
    R1  = (I - r R02)^-1,   R02 = -sum lam_k H_k B R3            R3 = (I - u R24)^-1,   R24 = -sum lam_k R1 H_k B
    X_k = w*_k^2 1 1^T + u B C3 B^T                   G_k = I - lam_k R1 H_k B R3
    C0  = sum lam_k H_k [X_k + lam_k r B R3 C1 R3^T B^T] H_k^T            C1 = R1 (C0 + sigma^2 1 1^T) R1^T
    C2  = sum lam_k r G_k C1 G_k^T + lam_k^2 R1 H_k X_k H_k^T R1^T        C3 = R3 C2 R3^T

C0(t, t) is the test error and C1(t, t) the train error. One-pass SGD sees fresh samples at every step: R1 = I,
C1 = diag(C0(t, t) + sigma^2), r = 1 / batch size. Two models that do not share features lose u in X_k, two that do not share
data lose r and sigma^2. All is causal: iteration from R = I, C = 0 gets some more states right at every sweep.

With feature learning (`dmft.scaling.feature_learning`) B depends on C3; this module is the one code path of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from dmft.scaling.errors import Errors
from dmft.scaling.random_features import Modes, sizes
from widthwise import GradientDescent, Spectrum, check
from widthwise.checked import Extended, checked
from widthwise.memory import room
from widthwise.training import move

TOLERANCE = 1e-12
"""Largest relative change of the last sweep."""

ROUNDING = 1e-7
"""... where rounding, amplified by dynamics near the edge of stability, allows no smaller one."""

WINDOW = 8
"""States that are found at once, from those before them."""

Matrix = Float[np.ndarray, "states states"]


@checked
def train(
    spectrum: Spectrum,
    training: GradientDescent,
    num_features: Extended = np.inf,
    num_samples: Extended = np.inf,
    *,
    noise: float = 0.0,
) -> Errors:
    """Errors of random features under gradient descent, state by state (equations above).

    Momentum, Nesterov, schedules, weight decay; sampling="online" with a batch_size is one-pass SGD. Memory and time go like
    entries x T^2 and entries x T^3: bin the spectrum. `flow` has no steps, and takes any time.

    Args:
        spectrum: of the kernel that infinitely many features give, with the target.
        training: loss "mse"; full batch, or online.
        num_features, num_samples: k and n, np.inf allowed; num_samples stays np.inf for online training.
        noise: standard deviation sigma of noise on the targets.

    Returns:
        Errors of shape (T + 1,); `train` of an online run is that of the batch to come.

    Raises:
        ValueError: batches of a fixed data set; settings that this model has not.
        ValueError: errors grow beyond numbers (a learning rate far beyond the edge of stability).

    Example:
        >>> spectrum = Spectrum.power_law(1.75, 1.25, 1000).binned(8)
        >>> errors = train(spectrum, GradientDescent(0.4, 20), num_features=40, num_samples=60, noise=0.3)
        >>> errors.test[[0, 5, 20]].round(3).tolist()
        [1.955, 0.642, 0.47]
    """
    training_, theory = solvable(training), setting(spectrum, training, num_features, num_samples, noise)
    return solve(theory, impulse_response(training_))


@dataclass(frozen=True)
class Setting:
    """Modes, u = 1 / k, r = 1 / n or 1 / batch size, sigma^2, whether samples are fresh, gamma of feature learning."""

    modes: Modes
    per_feature: float
    per_sample: float
    noise2: float
    online: bool
    gamma: float = 0.0


def setting(
    spectrum: Spectrum, training: GradientDescent, num_features: float, num_samples: float, noise: float, gamma: float = 0.0
) -> Setting:
    """Checked.

    Raises:
        ValueError: sizes that are not one number above zero; num_samples beside online training.
    """
    for name, value in (("num_features", num_features), ("num_samples", num_samples)):
        sizes(name, value)
    if training.online and not np.isinf(num_samples):
        raise ValueError(f"online training sees fresh samples at every step: leave num_samples out, got {num_samples!r}.")
    r = 1 / training.batch_size if training.batch_size else 1 / num_samples
    sigma2 = check.at_least_zero("noise", noise) ** 2
    return Setting(Modes.of(spectrum), 1 / num_features, r, sigma2, training.online, check.at_least_zero("gamma", gamma))


def solvable(training: GradientDescent) -> GradientDescent:
    """The training, if the model has it.

    Raises:
        ValueError: if not.
    """
    check.instance("training", training, GradientDescent)
    if training.flow:
        raise ValueError("train steps: for gradient flow call dmft.scaling.flow.")
    if training.loss.name != "mse":
        raise ValueError(f"the model is solved for loss='mse', got {training.loss.name!r}.")
    if training.batches is not None or (training.batch_size is not None and not training.online):
        raise ValueError("batches are fresh samples here: take sampling='online' with batch_size, or the full batch.")
    for name in ("temperature", "label_noise", "layer_rates", "optimizer"):
        if getattr(training, name):
            raise ValueError(f"this model goes without {name}: leave it out" + ("; see noise=." if "noise" in name else "."))
    return training


def impulse_response(training: GradientDescent) -> Matrix:
    """B(t, s): the weights at state t that a unit gradient at step s leaves, (T + 1, T + 1), strictly lower triangular.

    Example:
        >>> impulse_response(GradientDescent(0.5, 3, momentum=0.5))[:, 0].tolist()
        [0.0, 0.5, 0.75, 0.875]
    """
    T = training.num_steps
    room(100 * (T + 1) ** 2, f"response functions of {T} steps", "Take fewer steps (with a larger eta0).")
    gradients = np.eye(T + 1)
    weights, velocity = np.zeros(T + 1), None
    B = np.zeros((T + 1, T + 1))
    for t, eta in enumerate(training.step_sizes):
        weights, velocity = move(
            weights, velocity, gradients[t], eta, training.momentum, training.nesterov, training.weight_decay
        )
        B[t + 1] = weights
    return B


def solve(theory: Setting, response: Matrix) -> Errors:
    """The fixed point, and the covariances of two models that share less at its response functions."""
    zero = np.zeros_like(response)
    I = np.eye(len(response))

    def sweep(end: int, state: State) -> State:
        R1, R3, C1, C3 = state
        R = _responses(theory, with_features(response[:end, :end], theory.gamma, C3), R1, R3)
        return (R.R1, R.R3, *_covariances(theory, R, C1, C3)[1:])

    with np.errstate(over="ignore", invalid="ignore"):
        R1, R3, C1, C3 = _causal(sweep, (I, I, zero, zero))
        R = _responses(theory, with_features(response, theory.gamma, C3), R1, R3)
        out = {"test": np.diagonal(_covariances(theory, R, C1, C3)[0]), "train": np.diagonal(C1)}
        for name, features, data in (("same_data", 0, 1), ("same_features", 1, 0), ("bias", 0, 0)):
            u, r, noise2 = theory.per_feature * features, theory.per_sample * data, theory.noise2 * data
            out[name] = _shared(replace(theory, per_feature=u, per_sample=r, noise2=noise2), R)
    return Errors(**out, times=np.arange(len(response), dtype=float))


def _shared(theory: Setting, R: _Responses) -> Float[np.ndarray, "states"]:
    """C0(t, t) at given response functions."""
    zero = np.zeros_like(R.B)
    C1, C3 = _causal(lambda end, C: _covariances(theory, R.until(end), *C)[1:], (zero, zero))
    return np.diagonal(_covariances(theory, R, C1, C3)[0])


State = tuple[Matrix, ...]


def _causal(sweep: Callable[[int, State], State], state: State) -> State:
    """The fixed point of a causal map on times x times matrices: of the first states, then of some more, and so on.

    What is earlier does not change any more, and of `WINDOW` new states each sweep gets at least one right. (Iterating all
    states at once ends too, but through later states that may be too large for numbers on the way.)
    """
    T, state = len(state[0]), tuple(x.copy() for x in state)
    for end in [*range(WINDOW, T, WINDOW), T]:
        now = tuple(x[:end, :end].copy() for x in state)
        for _ in range(4 * WINDOW + 20):
            new = sweep(end, now)
            change = max(map(_change, new, now))
            now = new
            if change < TOLERANCE:
                break
        if not change < ROUNDING:
            raise ValueError(
                f"no fixed point up to state {end} (last relative change {change:.1g}): errors grow out of bounds. Is "
                "the learning rate beyond 2 / (largest eigenvalue), or gamma too large for it?"
            )
        for x, found in zip(state, now, strict=True):
            x[:end, :end] = found
    return state


def _change(new: Matrix, old: Matrix) -> float:
    change = np.abs(new - old).max() / max(np.abs(new).max(), 1e-300)
    return float(change) if np.isfinite(change) else np.inf


def with_features(response: Matrix, gamma: float, C3: Matrix) -> Matrix:
    """B with feature learning: L + gamma (response o Cw), from L = response (I + gamma (response o C3) L), Cw = L C3 L^T.

    o is the product entry by entry. Under gradient descent (response = eta below the diagonal): 2409.17858.
    """
    if gamma == 0:
        return response
    I = np.eye(len(response))
    L = np.tril(np.linalg.solve(I - gamma * response @ (response * C3), response), -1)
    return L + gamma * response * (L @ C3 @ L.T)


@dataclass(frozen=True)
class _Responses:
    """B, R1, R3 (states, states); H (entries, states, states); all causal."""

    B: Matrix
    R1: Matrix
    R3: Matrix
    H: Any

    def until(self, end: int) -> _Responses:
        """Of the first states."""
        return _Responses(*(x[..., :end, :end] for x in (self.B, self.R1, self.R3, self.H)))


def _responses(theory: Setting, B: Matrix, R1: Matrix, R3: Matrix) -> _Responses:
    """H from R1 and R3; R1 and R3 from H."""
    I, (lam, many) = np.eye(len(B)), (theory.modes.lam, theory.modes.many)
    H = np.tril(np.linalg.inv(I + lam[:, None, None] * (B @ R3 @ R1)))
    total = np.tensordot(many * lam, H, 1)
    R1 = I if theory.online else np.tril(np.linalg.inv(I + theory.per_sample * total @ B @ R3))
    return _Responses(B, R1, np.tril(np.linalg.inv(I + theory.per_feature * R1 @ total @ B)), H)


def _covariances(theory: Setting, R: _Responses, C1: Matrix, C3: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """C0, C1 and C3 from C1 and C3."""
    B, R1, R3, H = R.B, R.R1, R.R3, R.H
    lam, power, many = theory.modes.lam, theory.modes.power, theory.modes.many
    u, r = theory.per_feature, theory.per_sample

    def spread(F: Any, weight: Any, C: Matrix) -> Matrix:
        """sum over modes of weight_k F_k C F_k^T."""
        left = (weight[:, None, None] * (F @ C)).transpose(1, 0, 2).reshape(len(C), -1)
        return left @ F.transpose(1, 0, 2).reshape(len(C), -1).T

    h = H.sum(2)  # H_k 1
    C0 = (many * power * h.T) @ h  # sum over modes of lam w*^2 h h^T
    C2 = (many * power * lam * h.T) @ h
    if u:
        BCB = B @ C3 @ B.T
        C0 += spread(H, many * lam * u, BCB)
        C2 += spread(H, many * lam**2 * u, BCB)
    C2 = R1 @ C2 @ R1.T
    if r:
        C0 += spread(H, many * lam**2 * r, B @ R3 @ C1 @ R3.T @ B.T)
    C1 = np.diag(np.diagonal(C0) + theory.noise2) if theory.online else R1 @ (C0 + theory.noise2) @ R1.T
    if r:
        C2 += spread(np.eye(len(B)) - lam[:, None, None] * (R1 @ H @ (B @ R3)), many * lam * r, C1)
    return C0, C1, R3 @ C2 @ R3.T
