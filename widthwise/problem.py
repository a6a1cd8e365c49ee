"""Problem: network, parameterization, task, training; what both `dmft.solve` and `finite.train` read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from widthwise.activation import NAMED, Activation
from widthwise.architecture import MLP
from widthwise.loss import NAMED as LOSSES
from widthwise.loss import Loss, as_loss
from widthwise.parameterization import Parameterization
from widthwise.precision import float64
from widthwise.tasks import Task
from widthwise.training import GradientDescent


@dataclass(frozen=True)
class Problem:
    """The physics, whole: what is trained, at which strength, on what, and how.

    Args:
        architecture: MLP.
        parameterization: Parameterization.
        task: Task.
        training: GradientDescent.

    Raises:
        ValueError: an argument of the wrong kind.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "tanh"), Parameterization(gamma0=1.0),
        ...                   tasks.sphere(4, input_dim=8), GradientDescent(eta0=0.2, num_steps=10))
        >>> print(problem)
        MLP(depth=2, activation='tanh')
        Parameterization(gamma0=1.0, kind='mean_field', centered=True)
        Task('sphere', P=4, Q=0, D=8)
        GradientDescent(eta0=0.2, num_steps=10, loss='mse')
    """

    architecture: MLP
    parameterization: Parameterization
    task: Task
    training: GradientDescent

    def __post_init__(self) -> None:
        for field, kind in _PARTS.items():
            value = getattr(self, field)
            if not isinstance(value, kind):
                raise ValueError(f"Problem's {field} must be a {kind.__name__}, got {value!r}.")
        self._check_together()

    def _check_together(self) -> None:
        task, training, L = self.task, self.training, self.architecture.depth
        training.check_data(task.num_train)
        if training.online and not task.num_test:
            raise ValueError("online training is watched at the test points: give the task X_test.")
        if training.layer_rates is not None and len(training.layer_rates) != L + 1:
            raise ValueError(
                f"layer_rates must have L + 1 = {L + 1} factors, of W^0 ... W^{L - 1} and the readout; got "
                f"{len(training.layer_rates)}."
            )
        for y in (task.y, task.y_test):
            if y is None:
                continue
            if training.loss.name == "logistic" and not (np.abs(y) == 1).all():
                raise ValueError("loss='logistic' needs targets +1 and -1. For 0 and 1 pass 2 y - 1.")
            if training.loss.name == "cross_entropy":
                if task.num_outputs < 2:
                    raise ValueError("loss='cross_entropy' needs targets (P, C), C >= 2: one-hot rows, or loss='logistic'.")
                if (y < 0).any() or not np.allclose(y.sum(-1), 1.0):
                    raise ValueError("loss='cross_entropy' needs rows of probabilities: not negative, with sum 1.")

    @property
    def num_watched(self) -> int:
        """M, the points at which results are watched: train and test points, or test points alone if training is online."""
        return self.task.num_test if self.training.online else self.task.num_points

    @property
    def X_watched(self) -> NDArray[np.float64]:
        """(M, D)"""
        return self.task.X_test if self.training.online else self.task.X_all  # type: ignore[return-value]

    @property
    def Phi0(self) -> NDArray[np.float64]:
        """(M, M) input kernel x.x' / D of the watched points, plus bias^2."""
        X = self.X_watched
        return X @ X.T / self.task.input_dim + self.architecture.bias**2

    def fingerprint(self) -> str:
        """Sixteen hex digits that differ when the physics differs: settings, data to the last bit, activation."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def replace(self, **changes: Any) -> Problem:
        """A copy with fields of its parts changed by name, e.g. `problem.replace(gamma0=2.0, num_steps=50)`.

        Raises:
            ValueError: no part has a field of that name.
        """
        parts = {}
        for part, kind in _PARTS.items():
            noun = changes.pop(part, getattr(self, part))
            names = {field.name for field in dataclasses.fields(kind)}
            mine = {name: changes.pop(name) for name in [*changes] if name in names}
            parts[part] = dataclasses.replace(noun, **mine) if mine else noun
        if changes:
            raise ValueError(f"no part of a Problem has a field {', '.join(changes)}.")
        return Problem(**parts)

    def to_json(self) -> dict[str, Any]:
        """The Problem as JSON: every setting, the arrays as nested lists, the activation by name or by its jaxpr."""
        act, task = self.architecture.activation, self.task
        return {
            "architecture": {
                "depth": self.architecture.depth,
                "activation": _activation_text(act),
                "bias": self.architecture.bias,
            },
            "parameterization": dataclasses.asdict(self.parameterization),
            "task": {
                "name": task.name,
                **{k: None if (v := getattr(task, k)) is None else v.tolist() for k in ("X", "y", "X_test", "y_test")},
            },
            "training": {
                field.name: _loss_text(self.training.loss) if field.name == "loss" else getattr(self.training, field.name)
                for field in dataclasses.fields(self.training)
            },
        }

    @staticmethod
    def from_json(
        data: dict[str, Any], activation: Callable[..., Any] | Activation | None = None, loss: Callable[..., Any] | None = None
    ) -> Problem:
        """The Problem that `to_json` wrote.

        Args:
            data: what `to_json` gave.
            activation: the user's own activation function, where the Problem had one: a file holds only its text.
            loss: the user's own loss function, likewise.

        Raises:
            ValueError: the Problem had an activation or a loss of its own and none, or another, is passed.
        """
        text = data["architecture"]["activation"]
        spec = text if isinstance(text, str) else activation
        if spec is None:
            raise ValueError(
                f"this Problem has an activation of the user's own, {text['name']!r}, which a file cannot hold. "
                "Pass the function: Result.load(path, activation=function)."
            )
        architecture = MLP(data["architecture"]["depth"], spec, data["architecture"].get("bias", 0.0))
        if _activation_text(architecture.activation) != text:
            raise ValueError(f"the activation passed is not the one the Problem had; that one traces to {text['jaxpr']}")
        return Problem(
            architecture,
            Parameterization(**data["parameterization"]),
            Task(**data["task"]),
            GradientDescent(**data["training"] | {"loss": _loss_from(data["training"]["loss"], loss)}),
        )

    def __str__(self) -> str:
        return "\n".join(repr(getattr(self, part)) for part in _PARTS)


_PARTS = {"architecture": MLP, "parameterization": Parameterization, "task": Task, "training": GradientDescent}


def _loss_text(loss: Loss) -> Any:
    """A named loss's name; of a user's own, the jaxpr of it at two outputs."""
    if loss == LOSSES.get(loss.name):
        return loss.name
    with float64(), jax.disable_jit():
        closed = jax.make_jaxpr(loss.of_sample)(np.zeros(2), np.zeros(2))
    return {"name": loss.name, "jaxpr": str(closed), "constants": [np.asarray(c).tolist() for c in closed.consts]}


def _loss_from(text: Any, loss: Callable[..., Any] | None) -> Loss:
    if isinstance(text, str):
        return as_loss(text)
    if loss is None:
        raise ValueError(
            f"this Problem has a loss of the user's own, {text['name']!r}, which a file cannot hold. "
            "Pass the function: Result.load(path, loss=function)."
        )
    if _loss_text(as_loss(loss)) != text:
        raise ValueError(f"the loss passed is not the one the Problem had; that one traces to {text['jaxpr']}")
    return as_loss(loss)


def _activation_text(act: Activation) -> Any:
    """A named activation's name; of a user's own, the jaxpr of phi and phi' with the constants that they close over."""
    if act == NAMED.get(act.name):
        return act.name
    with float64(), jax.disable_jit():  # inner jits are written out, so that no constant hides in them
        closed = jax.make_jaxpr(lambda h: (act.phi(h), act.d(h)))(np.float64(0.0))
    return {"name": act.name, "jaxpr": str(closed), "constants": [np.asarray(c).tolist() for c in closed.consts]}
