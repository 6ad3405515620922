"""Bounded Huber regression for small nonlinear laws: many problems of one shape in one compiled program.

Minimises, over lower <= z <= upper,

    sum_i w_i huber_delta([W (model(z) - target)]_i) + 1/2 sum_j precision_j (z_j - centre_j)^2

by Levenberg-Marquardt with an active set for the bounds and continuation in delta: the threshold starts above every
residual, where the problem is least squares, and falls by steps to the one asked for. Residuals beyond delta have no
curvature of their own: they get a share of that of the parabola which majorises them, all of it where steps fail
(iteratively reweighted least squares, which converges linearly) and ever less where they succeed (Newton). Valleys
that bend are followed by geodesic acceleration (Transtrum and Sethna 2012, arXiv 1201.5885): a step is corrected by
half the second derivative along it. W whitens the errors that rows share (see
`whitening`), and is the identity where they share none. Starts, resamples, held-out rows and profile points are all
the same program: they differ in weights, targets, bounds, starting points and W only.
Float64, on the CPU, whatever the process uses elsewhere.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from capscale.analysis.arrays import Arrays
from capscale.analysis.problem import Layout, Problem
from capscale.analysis.whitening import whiten

TOLERANCE = 1e-13
"""Stop when a step would lower the objective by less than this share of it."""
MOST_BENT = 0.75
"""Longest correction of a step, as a share of it: beyond, the expansion does not hold, and the step stays straight."""
CHUNK = 8
"""Problems stepped together: a wide vmap would run all of them for as long as the slowest one needs."""
THREADS = 2
LEAST_FILLED, MOST_FILLED = 32, 1024
"""Tables are filled up with rows of weight 0 to the next power of 2 between these, so that many share a program:
compiling one takes as long as a thousand problems of 64 rows, and these take a fifth longer than of 48."""


class Batch(NamedTuple):
    """B problems over R rows, p coordinates and K levels of shared errors. Rows of weight 0 share none."""

    weight: Any  # (B, R)
    target: Any  # (B, R)
    lower: Any  # (B, p)
    upper: Any  # (B, p)
    start: Any  # (B, p)
    ratio: Any  # (B, K)


class Penalty(NamedTuple):
    """Gaussian priors, in units of the objective."""

    centre: np.ndarray  # (p,)
    precision: np.ndarray  # (p,)


class Solution(NamedTuple):
    """Per problem: coordinates, objective, whether it converged, and iterations."""

    z: np.ndarray  # (B, p)
    objective: np.ndarray  # (B,)
    converged: np.ndarray  # (B,)
    iterations: np.ndarray  # (B,)


@contextmanager
def float64_on_cpu() -> Iterator[None]:
    """Double precision on the first CPU device inside the block, in this thread only."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def huber(residual: Any, delta: Any) -> Any:
    """r^2 / 2 inside delta, delta (|r| - delta / 2) outside."""
    size = jnp.abs(residual)
    return jnp.where(size <= delta, 0.5 * residual * residual, delta * (size - 0.5 * delta))


def second_derivative(function: Callable[[Any], Any], z: Any, along: Any) -> Any:
    """Second derivative of `function` at z by the length of a step along a direction."""

    def slope(t: Any) -> Any:
        return jax.jvp(function, (z + t * along,), (along,))[1]

    return jax.jvp(slope, (0.0,), (1.0,))[1]


class _Way(NamedTuple):
    """How one problem is solved: threshold, most iterations, and whether it starts at that threshold."""

    delta: Any
    limit: Any
    warm: Any


class _State(NamedTuple):
    z: Any
    delta: Any
    damping: Any
    majorised: Any  # share of the parabola's curvature that residuals beyond delta get
    iteration: Any
    done: Any


@cache
def _program(layout: Layout, logarithmic: bool) -> Any:
    """The compiled solver of one law; the cache keeps one program per layout, jit one per shape."""

    def one(arrays: Arrays, group: Any, problem: Batch, penalty: Penalty, way: _Way) -> Any:
        weight, target, lower, upper, start, ratio = problem
        delta, limit, warm = way
        movable = upper > lower

        def residuals(z: Any) -> Any:
            predicted = layout.evaluate(z, arrays)
            r = jnp.log(predicted) - jnp.log(target) if logarithmic else predicted - target
            return whiten(r, group, ratio, weight > 0)

        def objective(r: Any, z: Any, delta: Any) -> Any:
            prior = 0.5 * jnp.sum(penalty.precision * (z - penalty.centre) ** 2)
            return jnp.sum(weight * huber(r, delta)) + prior

        def step(s: _State) -> _State:
            def model(z: Any) -> tuple[Any, Any]:
                r = residuals(z)
                return r, r

            J, r = jax.jacfwd(model, has_aux=True)(s.z)
            size = jnp.abs(r)
            gradient = (weight * jnp.clip(r, -s.delta, s.delta)) @ J + penalty.precision * (s.z - penalty.centre)
            curvature = weight * jnp.where(size <= s.delta, 1.0, s.majorised * s.delta / jnp.maximum(size, 1e-300))
            H = (J * curvature[:, None]).T @ J + jnp.diag(penalty.precision)
            blocked = ((s.z <= lower) & (gradient > 0)) | ((s.z >= upper) & (gradient < 0))
            free = (movable & ~blocked).astype(s.z.dtype)
            gradient = gradient * free
            scale = jnp.sqrt(jnp.maximum(jnp.diag(H), 1e-14 * jnp.max(jnp.diag(H)) + 1e-300))
            scaled = H / scale[:, None] / scale[None, :] * free[:, None] * free[None, :] + jnp.diag(1 - free)
            factor = jnp.linalg.cholesky(scaled + s.damping * jnp.eye(s.z.size, dtype=s.z.dtype))
            solved = jnp.all(jnp.isfinite(factor))
            move = jnp.where(solved, jax.scipy.linalg.cho_solve((factor, True), -gradient / scale), 0.0) / scale
            bend = jnp.nan_to_num(second_derivative(residuals, s.z, move))
            turn = jax.scipy.linalg.cho_solve((factor, True), -free / scale * ((curvature * bend) @ J)) / scale
            short = solved & (jnp.linalg.norm(turn * scale) <= MOST_BENT * jnp.linalg.norm(move * scale))
            candidate = jnp.clip(s.z + move + jnp.where(short, 0.5 * turn, 0.0), lower, upper)
            before = objective(r, s.z, s.delta)
            after = objective(residuals(candidate), candidate, s.delta)
            better = solved & (after < before)
            # Of the whole step: one that a bound cuts short may promise nothing far from the optimum.
            promised = -0.5 * (gradient @ move)
            settled = (solved & (promised <= TOLERANCE * before) & (s.damping <= 1e-2)) | (s.damping >= 1e5)
            last = s.delta <= delta
            lower_delta = ~last & (settled | (better & (before - after < 1e-3 * before)))
            damping = jnp.where(
                better, jnp.maximum(0.1 * s.damping, 1e-14), jnp.minimum(4 * jnp.maximum(s.damping, 1e-10), 1e6)
            )
            majorised = jnp.where(better, 0.3 * s.majorised, jnp.minimum(1.0, 4 * s.majorised + 0.01))
            return _State(
                jnp.where(better, candidate, s.z),
                jnp.where(lower_delta, jnp.maximum(0.2 * s.delta, delta), s.delta),
                jnp.where(lower_delta, 1e-3, damping),
                jnp.where(lower_delta, 1.0, majorised),
                s.iteration + 1,
                last & settled,
            )

        z = jnp.clip(start, lower, upper)
        largest = jnp.max(jnp.where(weight > 0, jnp.abs(residuals(z)), 0.0))
        first = jnp.where(warm, delta, jnp.clip(largest, delta, jnp.maximum(delta, 1.0)))
        state = _State(z, first, jnp.asarray(1e-3), jnp.asarray(1.0), jnp.asarray(0), jnp.asarray(False))
        state = jax.lax.while_loop(lambda s: ~s.done & (s.iteration < limit), step, state)
        value = objective(residuals(state.z), state.z, delta)
        return state.z, value, state.done, state.iteration

    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, None, None)))


def solve(
    problem: Problem,
    batch: Batch,
    *,
    delta: float,
    logarithmic: bool,
    group: np.ndarray,
    penalty: Penalty | None = None,
    warm: bool = False,
) -> Solution:
    """Solve every problem of the batch. Unconverged ones are taken up again, ten times as long.

    `group` (K, R) says which rows share errors, the finest level first; a level of ratio 0 throughout takes no time.
    With `warm` there is no continuation: delta is the one asked for from the first step, so that no result is above
    the objective at its start. Starts that are solutions of a neighbouring problem lose nothing so.
    """
    p = len(problem.parameters)
    penalty = penalty or Penalty(np.zeros(p), np.zeros(p))
    arrays, batch, group = _filled(problem.arrays, batch, group)
    used = np.any(np.asarray(batch.ratio) > 0, axis=0)
    group, ratio = group[used], np.asarray(batch.ratio, np.float64)[:, used]
    program = _program(problem.layout, logarithmic)

    def run(part: Batch, limit: int) -> Solution:
        with float64_on_cpu():
            return Solution(*(np.asarray(x) for x in program(arrays, group, part, penalty, _Way(delta, limit, warm))))

    def rows(index: np.ndarray, start: np.ndarray) -> Batch:
        weight, target, lower, upper = (np.asarray(x, np.float64)[index] for x in batch[:4])
        return Batch(weight, target, lower, upper, start[index], ratio[index])

    B = len(batch.start)
    start = np.asarray(batch.start, np.float64)
    # One compiled shape for any number of problems: the last chunk is filled up by repeats.
    chunks = [np.minimum(np.arange(i, i + CHUNK), B - 1) for i in range(0, B, CHUNK)]
    done = [run(rows(chunks[0], start), 400)]  # compiles, once
    with ThreadPoolExecutor(THREADS) as threads:
        done += threads.map(lambda chunk: run(rows(chunk, start), 400), chunks[1:])
    merged = Solution(*(np.concatenate(x)[:B] for x in zip(*done, strict=True)))
    slow = np.flatnonzero(~merged.converged)
    chunks = [slow[np.minimum(np.arange(i, i + CHUNK), len(slow) - 1)] for i in range(0, len(slow), CHUNK)]
    with ThreadPoolExecutor(THREADS) as threads:
        again = list(threads.map(lambda chunk: run(rows(chunk, merged.z), 4000), chunks))
    for index, solution in zip(chunks, again, strict=True):
        for field, value in zip(merged, solution, strict=True):
            field[index] = value
    return merged


def _filled(arrays: Arrays, batch: Batch, group: np.ndarray) -> tuple[Arrays, Batch, np.ndarray]:
    """The same with the last row repeated, of weight 0, up to the next power of 2."""
    rows = group.shape[1]
    if rows > MOST_FILLED:
        return arrays, batch, group
    length = max(LEAST_FILLED, 1 << (rows - 1).bit_length())
    index = np.minimum(np.arange(length), rows - 1)
    weight = np.where(np.arange(length) < rows, np.asarray(batch.weight)[:, index], 0.0)
    filled = batch._replace(weight=weight, target=np.asarray(batch.target)[:, index])
    longer = jax.tree.map(lambda x: np.asarray(x)[index] if np.ndim(x) else x, arrays)
    return longer, filled, group[:, index]
