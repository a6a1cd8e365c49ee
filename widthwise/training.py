"""Training: the optimizer, its batches and schedule, the loss; what one step does to a parameter."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

from widthwise import check
from widthwise.checked import checked
from widthwise.loss import as_loss
from widthwise.memory import room
from widthwise.precision import float64

Sampling = Literal["epochs", "online"]


class Batches(NamedTuple):
    """The data sequence, the same for every width and seed, and for the limit.

    Attributes:
        index: (T+1, B) train points of the batch at each state; the batch of state T is measured, not trained on.
        noise: (T+1, B, C) what is added to their targets, or None.
    """

    index: Int[np.ndarray, "states batch"]  # type: ignore[assignment]  # tuple has a method of that name
    noise: Float[np.ndarray, "states batch outputs"] | None


@dataclass(frozen=True)
class Adam:
    """Steps of a size of their own (1412.6980); with weight decay, which is decoupled, AdamW (1711.05101).

        G = m / (sqrt(v) + epsilon),   m, v running means of the gradient and of its square, without their bias at the start

    for gradients in units of their size at the start (`Parameterization.gradient_size`), so that epsilon means the same at
    every width and depth.

    Args:
        b1, b2: decay of m and of v.
        epsilon: in those units.

    Raises:
        ValueError: b1 or b2 not in [0, 1), epsilon not above zero.

    Example:
        >>> GradientDescent(0.01, 100, "cross_entropy", batch_size=16, optimizer=Adam(b2=0.99)).optimizer
        Adam(b1=0.9, b2=0.99, epsilon=1e-08)
    """

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("b1", "b2"):
            if check.at_least_zero(name, getattr(self, name)) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name):g}.")
        check.positive("epsilon", self.epsilon)


@dataclass(frozen=True)
class Optax:
    """An optimizer of your own, an optax.GradientTransformation; G is what it makes of the gradient.

    Args:
        transformation: its updates are to be added, as those of `optax.sgd(1.0)` are: minus the gradient, not plus.
        like: whose learning rates of the table it takes: "sgd" if its steps grow with the gradient, "adam" if they have a size
            of their own. It sees gradients in units of those rates ("sgd"), or of their size at the start ("adam").

    Raises:
        ValueError: not a GradientTransformation; another name.

    Example:
        >>> import optax
        >>> training = GradientDescent(0.1, 50, optimizer=Optax(optax.sgd(1.0, momentum=0.9), like="sgd"))
        >>> training.rates_of
        'sgd'
    """

    transformation: Any
    like: Literal["sgd", "adam"]

    def __post_init__(self) -> None:
        if not (hasattr(self.transformation, "init") and hasattr(self.transformation, "update")):
            raise ValueError(f"Optax takes an optax.GradientTransformation, got {check.shown(self.transformation)}.")
        check.choice("like", self.like, ("sgd", "adam"))


@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent: full batch or mini-batches, momentum, weight decay, schedules, noise; or gradient flow.

    With G = -d loss / d theta (loss the mean over the batch), eta(t) = eta0 schedule[t] layer_rate, one update is

        v     <- momentum v + G - weight_decay theta          theta <- theta + eta v
        (nesterov: theta <- theta + eta (G - weight_decay theta + momentum v))

    for theta every parameter in units of its initial standard deviation and G in units of its learning rate (the table in
    `widthwise.parameterization`), so that every number here is of order one at every width: weight decay multiplies weights by
    1 - eta weight_decay per step whatever their learning rate.

    Args:
        eta0: learning rate in function space, O(1) at every width. In the lazy limit full-batch training with the loss "mse"
            is stable for eta0 < 2 P / lambda_max(NTK).
        num_steps: number T of updates; results have T + 1 states, index t being the state before update t.
        loss: "mse", "logistic" (targets +-1), "cross_entropy" (targets (P, C), rows of probabilities), or a function of one
            sample's f (C,) and y (C,).
        batch_size: B, or None for all train points at every step.
        sampling: "epochs" (a new permutation of the train points per epoch, cut into batches, the rest dropped) or "online"
            (each point once, in order: needs P >= (T + 1) B; the batch of state T is only measured).
        batches: your own sequence instead, (T + 1, B) indices of train points.
        momentum, nesterov: heavy ball, or Nesterov's form of it, as in PyTorch.
        weight_decay: lambda.
        schedule: T factors of eta0, at least zero (see `widthwise.schedules`), or a function of the step.
        layer_rates: L + 1 factors of eta0, of W^0 ... W^{L-1} and the readout (with their biases); 0 freezes a layer.
        label_noise: standard deviation of fresh Gaussian noise on the targets at each step; one fixed sequence, part of the
            data, like the batches.
        temperature: Langevin noise: sqrt(2 temperature eta) N(0, 1) is added to every parameter at every step.
        flow: gradient flow, the limit of small steps: state t is at time eta0 (schedule[0] + ... + schedule[t-1]).
        data_seed: of the permutations and the label noise.
        optimizer: None is the update above; Adam() or Optax(...) put their G in the place of ours.

    Raises:
        ValueError: a setting out of range, or two that do not go together.

    Example:
        >>> GradientDescent(eta0=0.2, num_steps=100)
        GradientDescent(eta0=0.2, num_steps=100, loss='mse')
        >>> GradientDescent(0.2, 100, "cross_entropy", batch_size=16, momentum=0.9)
        GradientDescent(eta0=0.2, num_steps=100, loss='cross_entropy', batch_size=16, momentum=0.9)
    """

    eta0: float
    num_steps: int
    loss: Any = "mse"
    batch_size: int | None = None
    sampling: Sampling = "epochs"
    batches: Any = None
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Any = None
    layer_rates: Any = None
    label_noise: float = 0.0
    temperature: float = 0.0
    flow: bool = False
    data_seed: int = 0
    optimizer: Any = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("eta0", check.positive("eta0", self.eta0))
        put("num_steps", check.count("num_steps", self.num_steps))
        put("loss", as_loss(self.loss))
        for name in ("momentum", "weight_decay", "label_noise", "temperature"):
            put(name, check.at_least_zero(name, getattr(self, name)))
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum:g}; common values are 0.9 and 0.99.")
        put("nesterov", check.flag("nesterov", self.nesterov))
        put("flow", check.flag("flow", self.flow))
        check.choice("sampling", self.sampling, get_args(Sampling))
        put("data_seed", check.seed("data_seed", self.data_seed))
        if self.batch_size is not None:
            put("batch_size", check.count("batch_size", self.batch_size, "None is full batch."))
        put("batches", self._own_batches())
        put("schedule", self._own_schedule())
        if self.layer_rates is not None:
            rates = check.array("layer_rates", self.layer_rates, 1, "(L + 1,)", "One factor per weight matrix, 0 to freeze.")
            put("layer_rates", _none_negative("layer_rates", rates))
        self._check_optimizer()
        self._check_together()

    def _check_optimizer(self) -> None:
        if not (self.optimizer is None or isinstance(self.optimizer, Adam | Optax)):
            raise ValueError(f"optimizer must be None, Adam(...) or Optax(...); got {check.shown(self.optimizer)}.")
        if self.optimizer is not None:
            for name in ("momentum", "temperature", "flow"):
                if getattr(self, name):
                    raise ValueError(f"{name} belongs to plain gradient descent: leave it out, or leave optimizer out.")

    def _own_batches(self) -> tuple[tuple[int, ...], ...] | None:
        if self.batches is None:
            return None
        if self.batch_size is not None:
            raise ValueError("pass batch_size or batches, not both: the batches have their size.")
        index = check.array("batches", self.batches, 2, "(T + 1, B)", "One row of indices of train points per state.")
        if len(index) != self.num_steps + 1 or (index != np.round(index)).any() or (index < 0).any():
            raise ValueError(
                f"batches must have T + 1 = {self.num_steps + 1} rows of whole numbers from 0 on (the last is measured, not "
                f"trained on), got shape {index.shape}."
            )
        return tuple(tuple(int(i) for i in row) for row in index)

    def _own_schedule(self) -> tuple[float, ...] | None:
        if self.schedule is None:
            return None
        T, given = self.num_steps, self.schedule
        factors = given
        if callable(given):
            factors = [check.called("schedule(t)", given, t, shape=(), cure="It takes t to a factor.") for t in range(T)]
        factors = check.array("schedule", factors, 1, "(T,)", "See widthwise.schedules.")
        if len(factors) != T:
            raise ValueError(f"schedule must have one factor per update, T = {T}; got {len(factors)}.")
        return _none_negative("schedule", factors)

    def _check_together(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above zero, e.g. momentum=0.9.")
        if self.temperature and self.momentum:
            raise ValueError(
                "temperature (Langevin noise) goes with momentum=0: with momentum the noise has no one convention."
            )
        if self.sampling == "online" and self.batch_size is None:
            raise ValueError("sampling='online' needs a batch_size.")
        if self.label_noise and self.loss.name != "mse":
            raise ValueError(f"label_noise adds to the targets of loss='mse'; got loss={self.loss.name!r}.")
        if self.flow:
            for name in ("momentum", "label_noise", "temperature", "batch_size", "batches"):
                if getattr(self, name):
                    raise ValueError(f"flow=True is the limit of small full-batch steps: it goes without {name}.")

    def __repr__(self) -> str:
        shown = [f"eta0={self.eta0!r}", f"num_steps={self.num_steps!r}", f"loss={self.loss.name!r}"]
        for f in dataclasses.fields(self)[3:]:
            value = getattr(self, f.name)
            if value != f.default:
                long = isinstance(value, tuple) and len(value) > 4
                shown.append(f"{f.name}={f'<{len(value)} rows>' if long else repr(value)}")
        return f"GradientDescent({', '.join(shown)})"

    @property
    def rates_of(self) -> Literal["sgd", "adam"]:
        """Which learning rates of the parameterization's table the optimizer takes."""
        if self.optimizer is None:
            return "sgd"
        return "adam" if isinstance(self.optimizer, Adam) else self.optimizer.like

    # --- the data sequence -------------------------------------------------------------------------------------------------

    @property
    def full_batch(self) -> bool:
        """All train points at every step, in order."""
        return self.batch_size is None and self.batches is None

    @property
    def online(self) -> bool:
        """Each train point is seen once, in its batch; results are watched at the test points alone."""
        return self.sampling == "online"

    def check_data(self, P: int) -> None:
        """ValueError if P train points are too few for the batches."""
        B = self.batch_size or P
        if B > P:
            raise ValueError(f"batch_size must be at most the number of train points, P = {P}; got {B}.")
        if self.online and (need := (self.num_steps + 1) * B) > P:
            raise ValueError(
                f"the stream ends early: {self.num_steps} steps of {B} points and a last batch to measure need "
                f"{need} train points, the task has {P}. Make it longer, or take num_steps={max(P // B - 1, 0)}."
            )
        if self.batches is not None and (largest := max(map(max, self.batches))) >= P:
            raise ValueError(f"batches has the index {largest}; train points are 0 ... {P - 1}.")

    def batches_of(self, P: int, num_outputs: int) -> Batches:
        """The sequence of batches of P train points, and the noise on their targets."""
        T, B = self.num_steps, self.batch_size
        if self.batches is not None:
            index = np.array(self.batches)
        elif B is None:
            index = np.tile(np.arange(P), (T + 1, 1))
        elif self.online:
            index = np.arange((T + 1) * B).reshape(T + 1, B)
        else:
            rng = np.random.default_rng([self.data_seed, 0])
            per_epoch = P // B
            epochs = [rng.permutation(P)[: per_epoch * B].reshape(per_epoch, B) for _ in range(-(-(T + 1) // per_epoch))]
            index = np.concatenate(epochs)[: T + 1]
        noise = None
        if self.label_noise:
            noise = self.label_noise * np.random.default_rng([self.data_seed, 1]).standard_normal((*index.shape, num_outputs))
        return Batches(index, noise)

    # --- rates and losses --------------------------------------------------------------------------------------------------

    @checked
    def eta(self, depth: int) -> Float[np.ndarray, "updates layers"]:
        """(T, L + 1) learning rates of W^0 ... W^{L-1} and the readout at every update."""
        return self.step_sizes[:, None] * self.rates(depth)

    @property
    def step_sizes(self) -> Float[np.ndarray, "updates"]:
        """(T,) eta0 schedule[t]."""
        room(24 * self.num_steps, f"a training of {self.num_steps} steps", "Take fewer steps.")
        return self.eta0 * (np.ones(self.num_steps) if self.schedule is None else np.array(self.schedule))

    @checked
    def rates(self, depth: int) -> Float[np.ndarray, "layers"]:
        """(L + 1,) factors of eta0 of the layers."""
        return np.ones(check.count("depth", depth, most=10**6) + 1) if self.layer_rates is None else np.array(self.layer_rates)

    def Delta(self, f: Any, y: Any) -> Any:
        """-d loss / d f for the mean over samples: f (..., n) with y (n,), or (..., n, C) with (n, C); numpy in, numpy out."""
        if y.ndim == 1:
            return self.Delta(f[..., None], y[:, None])[..., 0]
        return _like(f, self.loss.minus_gradient, f, y) / len(y)

    def loss_of(self, f: Any, y: Any) -> Any:
        """The loss, mean over samples: f (..., n) with y (n,), or (..., n, C) with (n, C) -> (...); numpy in, numpy out."""
        if y.ndim == 1:
            return self.loss_of(f[..., None], y[:, None])
        return _like(f, self.loss.of, f, y).mean(-1)

    def hessian_of(self, f: Any, y: Any) -> Any:
        """d^2 l / d f d f' of every sample's loss: f, y (..., n, C) -> (..., n, C, C); numpy in, numpy out."""
        return _like(f, self.loss.hessian, f, y)


def _like(f: Any, function: Any, *args: Any) -> Any:
    """function(*args), in float64 and back in numpy if f is."""
    if not isinstance(f, np.ndarray):
        return function(*args)
    with float64():
        return np.asarray(function(*args))


def move(theta: Any, velocity: Any, G: Any, eta: Any, momentum: Any, nesterov: bool, weight_decay: Any) -> tuple[Any, Any]:
    """One update of a parameter (see `GradientDescent`), or of anything linear in the parameters; None is no velocity."""
    if not (isinstance(weight_decay, float) and weight_decay == 0):
        G = G - weight_decay * theta
    velocity = G if velocity is None else momentum * velocity + G
    return theta + eta * (G + momentum * velocity if nesterov else velocity), velocity


def _none_negative(name: str, values: np.ndarray) -> tuple[float, ...]:
    if (values < 0).any():
        first = int((values < 0).argmax())
        raise ValueError(f"{name} must not be negative, got {values[first]:g} at index {first}. 0 pauses learning.")
    return tuple(values.tolist())
