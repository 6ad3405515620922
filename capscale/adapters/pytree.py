"""Parameters of any model, as a tree of arrays: rules state which axes are contracted.

A tree has no layers, so activations are not seen here: a function that is to compress them calls `capscale.linear`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
from jax import Array

from capscale.contraction import Contraction, refuse_beyond_weights
from capscale.coverage import Coverage, Found, Parameter, cover
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.capabilities import HasLearnedScale, Stateful, draws, learns
from capscale.formats.schedule import needs_progress
from capscale.policy import Policy
from capscale.representation import Representation, project_weights, weight_rows

ByPath = dict[str, Array]
"""Arrays that belong to parameters, by the path of the parameter."""


@dataclass(frozen=True)
class CompressedTree:
    """Functions of a parameter tree under a policy; what formats own lies in trees of its own, `ByPath`.

    Example:
      compressed = capscale.compress(params, ((".*/w", Representation(operand("int4")), 0), (".*", DENSE)))
      loss, gradient = jax.value_and_grad(lambda params: loss_of(compressed.project(params), batch))(params)
    """

    coverage: Coverage

    def project(
        self, params: Any, ctx: Context = NO_CONTEXT, learned: ByPath | None = None, state: ByPath | None = None
    ) -> Any:
        """`params` as the policy holds them; their gradient passes through the estimators to `params` and `learned`.

        Args:
          params: the master weights, a tree of the structure that was given to `compress`.
          ctx: progress for schedules, a key for noise; every weight draws from a key of its own.
          learned: numbers that formats learn, from `initial_learned`: train them with `params`.
          state: what formats keep, from `initial_state`.

        Raises:
          UserError: another structure; numbers, a state, a progress or a key that formats need and do not get.
        """
        places = {path: place for place, path in enumerate(self.coverage.compressed)}

        def held(path: str, w: Array) -> Array:
            found = self.coverage.compressed[path]
            key = None if ctx.key is None else jax.random.fold_in(ctx.key, places[path])
            own = Context(ctx.progress, key, (learned or {}).get(path), (state or {}).get(path))
            _check_context(found, own, ctx)
            return _mapped(found, lambda matrix, own: project_weights(matrix, _of(found), own))(w, own)

        return self._map(held, params)

    def initial_learned(self, params: Any) -> ByPath:
        """First values of the numbers that formats learn, for an optimizer to train beside `params`."""

        def start(found: Parameter) -> Callable[[Array, Context], Array] | None:
            fmt = _of(found).weights.format
            if not (isinstance(fmt, HasLearnedScale) and fmt.learns):
                return None
            return lambda matrix, _: fmt.initial_learned(weight_rows(matrix, _of(found)))

        return self._owned(start, params)

    def initial_state(self, params: Any) -> ByPath:
        """State of the formats that keep one, such as RigL's masks, at the start of training."""

        def start(found: Parameter) -> Callable[[Array, Context], Array] | None:
            fmt = _of(found).weights.format
            return (
                (lambda matrix, _: fmt.initial_state(weight_rows(matrix, _of(found))))
                if isinstance(fmt, Stateful)
                else None
            )

        return self._owned(start, params)

    def next_state(self, state: ByPath, params: Any, gradient: Any, *, step: Array, progress: Array) -> ByPath:
        """State after optimizer step `step`.

        Args:
          state: before it.
          params: the master weights.
          gradient: with respect to the projected parameters: it tells of pruned entries too. `jax.vjp` of `project`
            carries the same gradient on to the master weights.
          step: number of the optimizer step.
          progress: share of training done.
        """
        leaves, gradients = _leaves(params), _leaves(gradient)
        moved = {}
        for path, found in self.coverage.compressed.items():
            fmt = _of(found).weights.format
            if isinstance(fmt, Stateful):
                contraction = _contraction(found)

                def move(w: Array, g: Array, mask: Array, fmt: Stateful = fmt, found: Parameter = found) -> Array:
                    held = _of(found)
                    return fmt.next_state(mask, weight_rows(w, held), weight_rows(g, held), step, progress)

                for _ in contraction.axes(len(found.shape)).stacked:
                    move = jax.vmap(move)
                moved[path] = move(contraction.matrix(leaves[path]), contraction.matrix(gradients[path]), state[path])
        return moved

    def _owned(self, start: Callable[[Parameter], Callable[[Array, Context], Array] | None], params: Any) -> ByPath:
        leaves, owned = _leaves(params), {}
        for path, found in self.coverage.compressed.items():
            if (make := start(found)) is not None:
                for _ in _contraction(found).axes(len(found.shape)).stacked:
                    make = jax.vmap(make, in_axes=(0, None))
                owned[path] = make(_contraction(found).matrix(leaves[path]), NO_CONTEXT)
        return owned

    def _map(self, function: Callable[[str, Array], Array], params: Any) -> Any:
        shapes = {path: jax.numpy.shape(leaf) for path, leaf in _leaves(params).items()}
        known = {found.path: found.shape for found in self.coverage.parameters}
        if shapes != known:
            other = sorted({*shapes.items()} ^ {*known.items()})[:4]
            raise UserError(f"parameters are not those that were compressed; they differ in {other}")
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: function(name, leaf) if (name := path_name(path)) in self.coverage.compressed else leaf,
            params,
        )


def compress(params: Any, policy: Policy) -> CompressedTree:
    """The parameters of any model under a policy whose rules state the contraction.

    Raises:
      UserError: rules that match nothing, weights that none covers, axes that are not stated, compressed activations.
    """
    return CompressedTree(describe(params, policy))


def describe(params: Any, policy: Policy) -> Coverage:
    """Coverage of every array of the tree by `policy`."""
    return cover([_found(path, leaf) for path, leaf in _leaves(params).items()], policy, _refuse)


def _found(path: str, leaf: Any) -> Found:
    shape = tuple(jax.numpy.shape(leaf))
    if len(shape) < 2:
        return Found(path, shape, None, "no matrix", product=False)
    return Found(path, shape, None, "an array of no known layer")


def _refuse(found: Found, representation: Representation) -> None:
    if not representation.activations.is_dense:
        raise UserError(
            f"{found.path}: a tree of parameters has no layers, so its activations cannot be compressed here; compress "
            "the Flax or Equinox model itself, or call capscale.linear(x, w, representation) where they are multiplied"
        )
    refuse_beyond_weights(found.path, representation)


def _check_context(found: Parameter, own: Context, ctx: Context) -> None:
    fmt = _of(found).weights.format
    wanted = {
        "a key: project(params, Context(key=...))": draws(fmt) and own.key is None,
        "a progress: project(params, Context(progress=...))": needs_progress(fmt) and ctx is NO_CONTEXT,
        "its learnable parameters: project(params, learned=...)": learns(fmt) and own.learned is None,
        "its state: project(params, state=...)": isinstance(fmt, Stateful) and own.state is None,
    }
    for need, missing in wanted.items():
        if missing:
            raise UserError(f"{found.path}: {fmt!r} needs {need}")


def _mapped(found: Parameter, function: Callable[[Array, Context], Array]) -> Callable[[Array, Context], Array]:
    """`function` of one matrix, of all that the array holds where the format owns something of each."""

    def of_array(w: Array, own: Context) -> Array:
        contraction, mapped = _contraction(found), function
        if own.learned is not None or own.state is not None:
            axes = cast(Any, Context)(None, None, 0, 0)
            for _ in contraction.axes(w.ndim).stacked:
                mapped = jax.vmap(mapped, in_axes=(0, axes))
        return contraction.restored(mapped(contraction.matrix(w), own), w.shape)

    return of_array


def _of(found: Parameter) -> Representation:
    assert found.representation is not None
    return found.representation


def _contraction(found: Parameter) -> Contraction:
    assert found.contraction is not None
    return found.contraction


def path_name(path: tuple[Any, ...]) -> str:
    """`blocks/0/attention/kernel`, of a path as jax gives it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _leaves(tree: Any) -> ByPath:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
