"""Deep linear networks: the infinite-width limit in closed form, any depth, any gamma0, without sampling.

With phi(h) = h the gradient field g^l = z^l is the same for every sample, and the single-site process is Gaussian:

    h^l = u^l + gamma0 C^l g^l        C^l_m(t,s)  = A^{l-1}_m(t,s) + eta(s) sum_n Phi^{l-1}_mn(t,s) Delta_n(s)   (s < t)
    g^l = r^l + gamma0 D^l h^l        D^l_n(t,s)  = B^l_n(t,s)     + eta(s) G^{l+1}(t,s) Delta_n(s)              (s < t)
    A^l_m(t,s) = d h^l_m(t) / d r^l(s) / gamma0        B^{l-1}_n(t,s) = d g^l(t) / d u^l_n(s) / gamma0
    Phi^l = <h^l h^l>,  G^l = <g^l g^l>,  Phi^0 = X X^T / D,  G^{L+1} = 1,  A^0 = 0,  B^L = 0
    f_m(t) = sum_s A^L_m(t,s) + sum_{s<t,n} eta(s) Phi^L_mn(t,s) Delta_n(s)

(2205.09653, section on deep linear networks; in discrete time here.) Averages and responses close on themselves. All sums run
over the past, so row t of everything follows from the rows before it: one march, no fixed-point iteration, no inverse.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from dmft.method import Solution, require_applies, trajectory_of
from widthwise import Estimate, Problem, Status, memory
from widthwise.activation import NAMED
from widthwise.curvature import eigenvalues, sharpness

Rows = Float[np.ndarray, "points points_times"]


SAVES = ("NTK", "eigenvalues", "sharpness")


@dataclass(frozen=True)
class DeepLinear:
    """The infinite-width limit of linear networks, exact at every depth, gamma0 and step size. No sampling.

    It takes full-batch gradient descent of one output, with any loss and schedule, without biases: March() takes the rest.
    Cost: L T (T M)^2 operations and L (T M)^2 numbers, for T steps and M points.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(3, "linear"), Parameterization(gamma0=3.0),
        ...                   tasks.sphere(4, input_dim=8), GradientDescent(eta0=0.05, num_steps=100))
        >>> estimate, status, stats = DeepLinear().run(problem, seed=0, kernel_steps=np.array([0, 100]), progress=False)
        >>> status.ok, bool(estimate.mean.loss[-1] < 0.1 * estimate.mean.loss[0])
        (True, True)
    """

    @staticmethod
    def obstacle(problem: Problem) -> str | None:
        """Why this method does not apply to the problem, in one sentence; None if it does."""
        act, training = problem.architecture.activation, problem.training
        if act != NAMED["linear"]:
            return f"DeepLinear solves activation='linear', got {act.name!r}: use March(), which solves every activation."
        others = {
            f"{problem.task.num_outputs} outputs": problem.task.num_outputs > 1,
            "biases": bool(problem.architecture.bias),
            "mini-batches": not training.full_batch,
            **{name: getattr(training, name) for name in ("momentum", "weight_decay", "label_noise", "temperature", "flow")},
            "layer_rates": training.layer_rates is not None,
        }
        if there := [name for name, is_there in others.items() if is_there]:
            return (
                "DeepLinear solves full-batch gradient descent of one output without biases; the problem has "
                f"{', '.join(there)}: use March()."
            )
        return None

    def run(
        self,
        problem: Problem,
        *,
        seed: int,
        kernel_steps: Int[np.ndarray, "kept"],
        progress: bool,
        save: tuple[str, ...] = (),
    ) -> Solution:
        """Solve `problem`; see `dmft.solve`. Nothing is drawn, so `seed` changes nothing.

        Raises:
            ValueError: the activation is not linear, or training is not plain; a name in `save` that is not there.
            MemoryError: the kernels would not fit.
        """
        start = time.perf_counter()
        require_applies(self.obstacle(problem), save, SAVES)
        L, task, training = problem.architecture.depth, problem.task, problem.training
        M, P, times, kept = task.num_points, task.num_train, training.num_steps + 1, len(kernel_steps)
        memory.require(
            8.0 * (L * ((times * M) ** 2 + 5 * times**2 * M + 2 * times**2 + 4 * (kept * M) ** 2) + 3 * times * M**2),
            f"dmft.DeepLinear with {L} layers, {times} states and {M} points",
            "Use fewer steps (with a larger eta0), fewer points, or March, whose memory does not grow with the steps.",
        )
        f = np.full((times, M), np.nan)
        push = np.zeros((times, M))  # eta(t) Delta(t)
        gamma0, eta = problem.parameterization.gamma0, np.append(training.step_sizes, 0.0)
        input_rows, output_row = np.tile(problem.Phi0, times), np.ones(times)
        layers = [_Layer(times, M, gamma0) for _ in range(L)]
        bar = tqdm(range(times), desc=f"dmft.DeepLinear L={L}", unit="step", disable=None if progress else True, leave=False)
        with np.errstate(all="ignore"), bar:  # diverging training is reported by the status
            for t in bar:
                Phi, A = input_rows, np.zeros((M, times))
                for layer in layers:
                    Phi, A = layer.forward(t, Phi, A, push)
                f[t] = A.sum(1) + Phi[:, : t * M] @ push[:t].ravel()
                if not np.isfinite(f[t]).all():
                    break
                push[t, :P] = eta[t] * training.Delta(f[t, :P], task.y.ravel())
                G, B = output_row, np.zeros(times * M)
                for layer in reversed(layers):
                    G, B = layer.backward(t, G, B, push)
            Phi = np.stack([layer.Phi_at(kernel_steps) for layer in layers])
            G = np.stack([layer.G_at(kernel_steps) for layer in layers])
            not_reached = ~np.isfinite(f[kernel_steps]).all(1)
            for kernel in (Phi, G):
                kernel[:, not_reached] = kernel[:, :, :, not_reached] = np.nan
            trajectory = trajectory_of(problem, f[..., None], kernel_steps, Phi, G)
            NTK = trajectory.tangent_kernel(problem.Phi0)
            more = {
                "NTK": lambda: NTK,
                "eigenvalues": lambda: eigenvalues(problem, NTK),
                "sharpness": lambda: sharpness(problem, NTK[:, :, None, :, None], f[kernel_steps, :, None]),
            }
            trajectory = dataclasses.replace(trajectory, more={name: more[name]() for name in SAVES if name in save})
            status = Status.of(problem, trajectory, f"solved, {training.num_steps} steps")
        return Solution(Estimate.exact(trajectory), status, {"seconds": time.perf_counter() - start})


class _Layer:
    """Averages and responses of one layer, filled row by row; (t, m) is row t M + m, rows of later times are zero.

    Attributes:
        H: (T M, T M) <h_m(t) h_n(s)>.
        G: (T, T) <g(t) g(s)>.
        gh: (T, T M) <g(t) h_n(s)>.
        C: (T M, T) what h owes to g, over gamma0.
        A: (T M, T) d h_m(t) / d r(s) over gamma0.
        B: (T, T M) d g(t) / d u_n(s) over gamma0.
        R: (T, T) d g(t) / d r(s).
    """

    def __init__(self, times: int, M: int, gamma0: float):
        self.times, self.M, self.gamma0 = times, M, gamma0
        self.H = np.zeros((times * M, times * M))
        self.G, self.R = np.zeros((2, times, times))
        self.gh, self.B = np.zeros((2, times, times * M))
        self.C, self.A = np.zeros((2, times * M, times))

    def forward(
        self, t: int, Phi: Rows, A: Float[np.ndarray, "points times"], push: Float[np.ndarray, "times points"]
    ) -> tuple[Rows, Float[np.ndarray, "points times"]]:
        """Rows t of Phi^l and A^l from rows t of Phi^{l-1} and A^{l-1}.

        The fields at t are h(t) = u(t) + gamma0 C(t) g, hence, with averages over u taken by parts,

            <u(t) g(s)> = gamma0 Phi^{l-1}(t, .) B(s, .)        <u(t) h(s)> = Phi^{l-1}(t, s) + gamma0 <u(t) g> C(s)
            <h(t) x(s)> = <u(t) x(s)> + gamma0 C(t) <g x(s)>    for x = g, h
        """
        M, gamma0, past, done = self.M, self.gamma0, t * self.M, (t + 1) * self.M
        now = slice(past, done)
        C = A[:, :t] + np.einsum("msn,sn->ms", Phi[:, :past].reshape(M, t, M), push[:t])
        self.C[now, :t] = C
        self.A[now, :t] = C @ self.R[:t, :t]
        ug = gamma0 * Phi[:, :past] @ self.B[:t, :past].T
        self.gh[:t, now] = ug.T + gamma0 * self.G[:t, :t] @ C.T
        uh = Phi[:, :done] + gamma0 * ug @ self.C[:done, :t].T
        self.H[now, :done] = uh + gamma0 * C @ self.gh[:t, :done]
        self.H[:past, now] = self.H[now, :past].T
        return self.H[now], self.A[now]

    def backward(
        self,
        t: int,
        G: Float[np.ndarray, "times"],
        B: Float[np.ndarray, "points_times"],
        push: Float[np.ndarray, "times points"],
    ) -> tuple[Float[np.ndarray, "times"], Float[np.ndarray, "points_times"]]:
        """Rows t of G^l and B^{l-1} from rows t of G^{l+1} and B^l.

        The field at t is g(t) = r(t) + gamma0 D(t) h, hence the responses (chain rule), and the averages over r by parts,

            d g(t)/d r = 1 + gamma0^2 D(t) C d g/d r            d g(t)/d u = gamma0 D(t) (1 + gamma0 C d g/d u)
            <r(t) h(s)> = gamma0 G^{l+1}(t, .) A(s, .)          <r(t) g(s)> = G^{l+1}(t, .) d g(s)/d r
            <g(t) x(s)> = <r(t) x(s)> + gamma0 D(t) <h x(s)>    for x = h, g
        """
        gamma0, past, done = self.gamma0, t * self.M, (t + 1) * self.M
        D = B[:past] + (G[:t, None] * push[:t]).ravel()
        DC = D @ self.C[:past, :t]
        self.R[t, :t] = gamma0**2 * DC @ self.R[:t, :t]
        self.R[t, t] = 1.0
        self.B[t, :past] = D + gamma0**2 * DC @ self.B[:t, :past]
        self.gh[t, :done] = gamma0 * (self.A[:done, :t] @ G[:t] + D @ self.H[:past, :done])
        self.G[t, : t + 1] = self.R[: t + 1, : t + 1] @ G[: t + 1] + gamma0 * self.gh[: t + 1, :past] @ D
        self.G[:t, t] = self.G[t, :t]
        return self.G[t], self.B[t]

    def Phi_at(self, steps: Int[np.ndarray, "kept"]) -> Float[np.ndarray, "kept points kept points"]:
        """Phi^l at the kept steps, axes (t, m, s, n)."""
        return self.H.reshape(self.times, self.M, self.times, self.M)[steps][:, :, steps]

    def G_at(self, steps: Int[np.ndarray, "kept"]) -> Float[np.ndarray, "kept points kept points"]:
        """G^l at the kept steps, the same for all pairs of samples."""
        K, M = len(steps), self.M
        return np.array(np.broadcast_to(self.G[np.ix_(steps, steps)][:, None, :, None], (K, M, K, M)))
