"""Problem: network, parameterization, task, training; what both `dmft.solve` and `finite.train` read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from widthwise.activation import NAMED, Activation
from widthwise.architecture import MLP
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

    def fingerprint(self) -> str:
        """Sixteen hex digits that differ when the physics differs: settings, data to the last bit, activation."""
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
            "architecture": {"depth": self.architecture.depth, "activation": _activation_text(act)},
            "parameterization": dataclasses.asdict(self.parameterization),
            "task": {
                "name": task.name,
                **{k: None if (v := getattr(task, k)) is None else v.tolist() for k in ("X", "y", "X_test", "y_test")},
            },
            "training": dataclasses.asdict(self.training),
        }

    @staticmethod
    def from_json(data: dict[str, Any], activation: Callable[..., Any] | Activation | None = None) -> Problem:
        """The Problem that `to_json` wrote.

        Args:
            data: what `to_json` gave.
            activation: the user's own activation function, where the Problem had one: a file holds only its text.

        Raises:
            ValueError: the Problem had an activation of its own and none, or another, is passed.
        """
        text = data["architecture"]["activation"]
        spec = text if isinstance(text, str) else activation
        if spec is None:
            raise ValueError(
                f"this Problem has an activation of the user's own, {text['name']!r}, which a file cannot hold. "
                "Pass the function: Result.load(path, activation=function)."
            )
        architecture = MLP(data["architecture"]["depth"], spec)
        if _activation_text(architecture.activation) != text:
            raise ValueError(f"the activation passed is not the one the Problem had; that one traces to {text['jaxpr']}")
        return Problem(
            architecture,
            Parameterization(**data["parameterization"]),
            Task(**data["task"]),
            GradientDescent(**data["training"]),
        )

    def __str__(self) -> str:
        return "\n".join(repr(getattr(self, part)) for part in _PARTS)


_PARTS = {"architecture": MLP, "parameterization": Parameterization, "task": Task, "training": GradientDescent}


def _activation_text(act: Activation) -> Any:
    """A named activation's name; of a user's own, the jaxpr of phi and phi' with the constants that they close over."""
    if act == NAMED.get(act.name):
        return act.name
    with float64(), jax.disable_jit():  # inner jits are written out, so that no constant hides in them
        closed = jax.make_jaxpr(lambda h: (act.phi(h), act.d(h)))(np.float64(0.0))
    return {"name": act.name, "jaxpr": str(closed), "constants": [np.asarray(c).tolist() for c in closed.consts]}
