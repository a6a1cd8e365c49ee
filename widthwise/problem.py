"""Problem: network, parameterization, task, training; what both `dmft.solve` and `finite.train` read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import jax
import numpy as np
from numpy.typing import NDArray

from widthwise import check
from widthwise.activation import NAMED, Activation
from widthwise.data import Stream
from widthwise.loss import NAMED as LOSSES
from widthwise.loss import Loss, as_loss
from widthwise.networks import MLP, NAMES, Architecture, Network, Plan, ResidualMLP, plan_of
from widthwise.parameterization import Parameterization
from widthwise.precision import float64
from widthwise.tasks import Task
from widthwise.traced import trace
from widthwise.training import Adam, GradientDescent, Optax


@dataclass(frozen=True)
class Problem:
    """The physics, whole: what is trained, at which strength, on what, and how.

    Args:
        architecture: MLP, ResidualMLP, ConvNet, ResNet, Transformer or ViT; or a Network of your own.
        parameterization: Parameterization.
        task: Task, arrays of points; or a Stream of batches (`widthwise.data`), which networks alone train on.
        training: GradientDescent.

    Raises:
        ValueError: an argument of the wrong kind, or parts that do not go together.

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

    architecture: Any
    parameterization: Parameterization
    task: Any
    training: GradientDescent

    def __post_init__(self) -> None:
        for field, kinds in _PARTS.items():
            value = getattr(self, field)
            if not isinstance(value, kinds):
                raise ValueError(
                    f"Problem's {field} must be a {' or '.join(k.__name__ for k in kinds)}, got {check.shown(value)}."
                )
        if isinstance(self.task, Stream):
            self._check_stream()
        else:
            self._check_task()
        if isinstance(self.architecture, Network):  # what has no limit is refused here
            same = _OWN.setdefault((self.architecture.name, self.plan.text), self.architecture)
            object.__setattr__(self, "architecture", same)

    def _check_stream(self) -> None:
        stream, training = self.task, self.training
        self.architecture.check_input(stream.input_shape)
        if training.batch_size is None:
            raise ValueError("training on a Stream needs a batch_size.")
        for name in ("batches", "label_noise", "temperature", "flow", "layer_rates"):
            if getattr(training, name):
                raise ValueError(f"{name} is for training on a Task, whose points are all known: leave it out.")
        if training.online or training.data_seed:
            raise ValueError("sampling and data_seed are for training on a Task: the order of a Stream is its own.")
        if stream.kind != "values" and training.loss.name != "cross_entropy":
            raise ValueError(
                f"{stream.name} is a stream of {stream.kind}, with loss='cross_entropy'; got loss={training.loss.name!r}. "
                "For values make its targets floats."
            )
        if stream.kind == "values" and training.loss.name == "cross_entropy":
            raise ValueError(
                f"{stream.name} is a stream of values, with loss='mse', 'logistic' or your own; got loss='cross_entropy'. For "
                "classes make its labels integers 0 ... C - 1 of shape (n,), e.g. y.ravel().astype(int)."
            )
        needed = (training.num_steps + 1) * training.batch_size
        if stream.num_samples is not None and needed > stream.num_samples:
            raise ValueError(
                f"{stream.name} ends early: {training.num_steps} steps of {training.batch_size} samples and a last batch to "
                f"measure need {needed}, it has {stream.num_samples}. Train for fewer steps, take smaller batches, or give it "
                "more data or epochs."
            )

    def _check_task(self) -> None:
        task, training = self.task, self.training
        if not isinstance(self.architecture, MLP | ResidualMLP | Network):
            raise ValueError(
                "a Task holds vectors, which MLP, ResidualMLP and a Network of your own take; "
                f"{type(self.architecture).__name__} takes a Stream of "
                "images or tokens: widthwise.data.from_arrays makes one of arrays."
            )
        if not isinstance(self.architecture, MLP) or training.optimizer is not None:
            for name in ("temperature", "flow", "layer_rates"):
                if getattr(training, name):
                    raise ValueError(f"{name} is for an MLP on a Task without an optimizer of its own: leave it out.")
        training.check_data(task.num_train)
        if training.online and not task.num_test:
            raise ValueError("online training is watched at the test points: give the task X_test.")
        L = self.architecture.depth if isinstance(self.architecture, MLP) else 0
        if training.layer_rates is not None and len(training.layer_rates) != L + 1:
            raise ValueError(
                f"layer_rates must have L + 1 = {L + 1} factors, of W^0 ... W^{L - 1} and the readout; got "
                f"{len(training.layer_rates)}."
            )
        for y in (task.y, task.y_test):
            if y is not None:
                training.loss.check_targets(y)
        if training.loss.name == "cross_entropy":
            _warn_of_no_class_0(task)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.task.input_shape if isinstance(self.task, Stream) else (self.task.input_dim,)

    @property
    def whole(self) -> bool:
        """Whether samples are whole numbers, tokens."""
        return isinstance(self.task, Stream) and self.task.kind == "tokens"

    @property
    def plan(self) -> Plan:
        """Weights, populations and fields of the network on these data."""
        return plan_of(self.architecture, self.input_shape, self.task.num_outputs, self.whole)

    @property
    def num_watched(self) -> int:
        """M, the points at which results are watched: train and test points, or test points alone if training is online."""
        return self.task.num_test if self.training.online else self.task.num_points

    @property
    def X_watched(self) -> NDArray[np.float64]:
        """(M, D)"""
        return self.task.X_test if self.training.online else self.task.X_all

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
        for part in _PARTS:
            noun = changes.pop(part, getattr(self, part))
            names = {field.name for field in dataclasses.fields(noun)} if dataclasses.is_dataclass(noun) else set()
            mine = {name: changes.pop(name) for name in [*changes] if name in names}
            parts[part] = dataclasses.replace(noun, **mine) if mine else noun
        if changes:
            raise ValueError(f"no part of a Problem has a field {', '.join(changes)}.")
        return Problem(**parts)

    def to_json(self) -> dict[str, Any]:
        """The Problem as JSON: every setting, the arrays as nested lists, the activation by name or by its jaxpr."""
        task = self.task
        return {
            "architecture": _architecture_text(self),
            "parameterization": dataclasses.asdict(self.parameterization),
            "task": {
                "name": task.name,
                **(
                    {"stream": task.fingerprint()}
                    if isinstance(task, Stream)
                    else {k: None if (v := getattr(task, k)) is None else v.tolist() for k in ("X", "y", "X_test", "y_test")}
                ),
            },
            "training": {
                **_fields(self.training),
                "loss": _loss_text(self.training.loss),
                "optimizer": _optimizer_text(self.training.optimizer),
            },
        }

    @staticmethod
    def from_json(
        data: dict[str, Any],
        activation: Callable[..., Any] | Activation | None = None,
        loss: Callable[..., Any] | None = None,
        stream: Stream | None = None,
        optimizer: Optax | None = None,
        network: Network | None = None,
    ) -> Problem:
        """The Problem that `to_json` wrote.

        Args:
            data: what `to_json` gave.
            activation: the user's own activation function, where the Problem had one: a file holds only its text.
            loss: the user's own loss function, likewise.
            stream: the Stream it was trained on, likewise.
            optimizer: the Optax of the user's own, likewise.
            network: the Network of the user's own, likewise.

        Raises:
            ValueError: the Problem had something of the user's own and none, or another, is passed.
        """
        try:
            return _problem_from(data, activation, loss, stream, optimizer, network)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"data must be what Problem.to_json gave, of this version of widthwise; got {error!r}.") from error

    def __str__(self) -> str:
        return "\n".join(repr(getattr(self, part)) for part in _PARTS)


def _problem_from(
    data: dict[str, Any],
    activation: Callable[..., Any] | Activation | None,
    loss: Callable[..., Any] | None,
    stream: Stream | None,
    optimizer: Optax | None,
    network: Network | None,
) -> Problem:
    architecture = _network_from(data["architecture"], network) or _architecture_from(data["architecture"], activation)
    problem = Problem(
        architecture,
        Parameterization(**data["parameterization"]),
        _stream_from(data["task"], stream) if "stream" in data["task"] else Task(**data["task"]),
        GradientDescent(
            **data["training"]
            | {
                "loss": _loss_from(data["training"]["loss"], loss),
                "optimizer": _optimizer_from(data["training"]["optimizer"], optimizer),
            }
        ),
    )
    if network is not None and isinstance(architecture, Network) and _architecture_text(problem) != data["architecture"]:
        raise ValueError(f"the network passed is not the one the Problem had, {data['architecture']['function']!r}.")
    return problem


def _architecture_text(problem: Problem) -> dict[str, Any]:
    """The settings of a noun; of a user's own network what it computes of these data."""
    noun = problem.architecture
    if isinstance(noun, Network):
        return {"name": "Network", "function": noun.name, "text": problem.plan.text}
    return {
        "name": type(noun).__name__,
        **{k: _activation_text(v) if k == "activation" else v for k, v in _fields(noun).items()},
    }


def _network_from(text: dict[str, Any], network: Network | None) -> Network | None:
    """The user's own network; None if the Problem had another architecture."""
    if text["name"] != "Network":
        return None
    if network is None:
        raise ValueError(
            f"this Problem has a network of the user's own, {text['function']!r}, which a file cannot hold. "
            "Pass it: Result.load(path, network=Network(function))."
        )
    check.instance("network", network, Network)
    return network


def _architecture_from(data: dict[str, Any], activation: Callable[..., Any] | Activation | None) -> Any:
    text = data["activation"]
    spec = text if isinstance(text, str) else activation
    if spec is None:
        raise ValueError(
            f"this Problem has an activation of the user's own, {text['name']!r}, which a file cannot hold. "
            "Pass the function: Result.load(path, activation=function)."
        )
    noun = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()} | {"activation": spec}
    architecture = NAMES[noun.pop("name")](**noun)
    if _activation_text(architecture.activation) != text:
        raise ValueError(f"the activation passed is not the one the Problem had; that one traces to {text['jaxpr']}")
    return architecture


_OWN: dict[tuple[str, str], Network] = {}
"""The first network of the user's own that computes what the text says, so that one made anew compiles nothing anew."""

_PARTS: dict[str, tuple[type, ...]] = {
    "architecture": get_args(Architecture),
    "parameterization": (Parameterization,),
    "task": (Task, Stream),
    "training": (GradientDescent,),
}


def _warn_of_no_class_0(task: Task) -> None:
    """Warn where class 0 alone has no sample among so many that it is no chance: labels 1 ... K, made one-hot as they are."""
    y = task.y if task.y_test is None else np.concatenate([task.y, task.y_test])
    there = (y != 0).any(axis=0).tolist()
    if not there[0] and all(there[1:]) and len(y) >= 10 * len(there):
        warnings.warn(
            f"no sample is of class 0, and all others occur: labels 1 ... {len(there) - 1} make an output that nothing is for. "
            "Count them from 0: np.eye(K)[labels - 1].",
            UserWarning,
            stacklevel=5,
        )


def _fields(noun: Any) -> dict[str, Any]:
    return {field.name: getattr(noun, field.name) for field in dataclasses.fields(noun)}


def _stream_from(text: dict[str, Any], stream: Stream | None) -> Stream:
    if stream is None or stream.fingerprint() != text["stream"]:
        raise ValueError(
            f"this Problem was trained on the stream {text['name']!r}, which a file cannot hold; "
            f"{'another one was passed' if stream else 'pass it: Result.load(path, stream=stream)'}."
        )
    return stream


def _optimizer_text(optimizer: Any) -> Any:
    """None, the settings of Adam, or which rates an optimizer of the user's own takes."""
    if isinstance(optimizer, Optax):
        return {"like": optimizer.like}
    return None if optimizer is None else dataclasses.asdict(optimizer)


def _optimizer_from(text: Any, optimizer: Optax | None) -> Any:
    if text is None or "like" not in text:
        return None if text is None else Adam(**text)
    if optimizer is None or optimizer.like != text["like"]:
        raise ValueError("this Problem has an optimizer of the user's own: pass it, Result.load(path, optimizer=Optax(...)).")
    return optimizer


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
    jaxpr, constants = trace(lambda h: (act.phi(h), act.d(h)), "float64", ())
    return {"name": act.name, "jaxpr": jaxpr, "constants": [c.tolist() for c in constants]}
