"""Scalar quantization: a grid, a scale rule, and how many values share a scale."""

from dataclasses import dataclass, replace
from functools import partial
from math import log2, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.checks import check_flag
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.project import ExternalScale, ScaleOffset, Spec, Unsupported, in_steps, of_level, on_grid

from .base import Context, Granularity, Projection, axes_of_shard, in_dtype, refuse_shard, to_float32
from .distributions import Distribution
from .grids import Grid
from .groups import Groups, GroupSize
from .mse import Mse
from .scale import GAUSSIAN_RMS, Learned, Rms, TwoLevel
from .scale_rule import ChecksGrid, Chooses, Combines, Group, HasKernelRule, ScaleRule, parts_of, scale_of
from .scaling import scaled_error
from .stochastic import Drawn
from .storage import Codes, Field, Shape

Parts = tuple[Array, ...]
"""Stored components of the scales; their product is the scale."""


@dataclass(frozen=True)
class Scalar:
    """`value = scale * nearest(x / scale)`, one scale per group.

    `group`: "row" (one scale per output channel of a weight, per token of an activation), "matrix" (one for the
    last two axes), a number of neighbours on the last axis, or `(rows, columns)` of a block of the last two axes. A
    number that does not divide the axis is refused unless `ragged`: the last group then holds what is left, with a
    scale of its own.

    Example: `Scalar(Int(4))` is the paper's INT4; `Scalar(E2M1, PowerOfTwo(), group=32)` is MXFP4.
    """

    grid: Grid
    scale: ScaleRule = GAUSSIAN_RMS
    group: GroupSize = "row"
    ragged: bool = False

    def __post_init__(self) -> None:
        check_flag(self, "ragged")
        groups = self.groups if isinstance(self.group, tuple) else None
        if isinstance(self.group, int) and self.group < 2:
            raise UserError(f"Scalar(group={self.group}): a group holds at least 2 values; or use 'row' or 'matrix'")
        if not isinstance(self.group, int | tuple) and self.group not in ("row", "matrix"):
            raise UserError(f"Scalar(group={self.group!r}): use 'row', 'matrix', a number of values or (rows, columns)")
        if isinstance(self.scale, TwoLevel) and isinstance(self.group, str):
            raise UserError(f"Scalar(scale={self.scale}, group={self.group!r}): TwoLevel scales need a numbered group")
        if isinstance(self.scale, TwoLevel) and self.scale.granularity == "row" and groups is not None:
            raise UserError(f"Scalar(scale={self.scale}, group={self.group}): a block spans rows; use 'matrix'")
        shared = [part.shared_by for part in parts_of(self.scale, self.grid)]
        if any(isinstance(groups, int) and groups > 1 for groups in shared) and not isinstance(self.group, int):
            raise UserError(
                f"Scalar(scale={self.scale}, group={self.group!r}): several groups of a row share a scale; "
                "use a number of values"
            )
        if isinstance(self.scale, ChecksGrid):
            self.scale.check_grid(self.grid)

    @property
    def groups(self) -> Groups:
        """Which values share a scale."""
        return Groups(self.group, self.ragged)

    @property
    def bits(self) -> float:
        """Code bits, plus a scale's share of its group."""
        values, parts = self.groups.values, parts_of(self.scale, self.grid)
        if values is None:
            return log2(self.grid.codes)
        own = (part.bits / part.shared_by for part in parts if isinstance(part.shared_by, int))
        return log2(self.grid.codes) + sum(own) / values

    @property
    def granularity(self) -> Granularity:
        """Rows, unless one measured number serves the matrix."""
        if isinstance(self.scale, Learned):
            return "row"
        shared = getattr(self.scale, "granularity", None)
        return "matrix" if isinstance(self.group, tuple) or "matrix" in (self.group, shared) else "row"

    @property
    def run(self) -> int:
        """Values that a code stands for: one."""
        return 1

    @property
    def codes(self) -> int:
        """Codes of the grid."""
        return self.grid.codes

    def per_row(self) -> "Scalar":
        """One scale per row where one served the matrix, or per row of a block."""
        scale: Any = self.scale
        scale = replace(scale, granularity="row") if hasattr(scale, "granularity") else scale
        group = self.group[1] if isinstance(self.group, tuple) else self.group
        return replace(self, scale=scale, group="row" if group == "matrix" else group)

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """Closed form or quadrature, by the law of the scale; see `capscale.formats.scaling`."""
        return scaled_error(self.grid, self.scale, self.group, distribution, samples)

    @jit_inline(0)
    def project(self, x: Array, ctx: Context) -> Projection:
        """Nearest level of each value on the scaled grid of its group; `rms` is that of the group."""
        projection = self.project_by(self.measure(x, ctx), x, key=ctx.key, chosen=self._choosing(x, ctx))
        if self.learns and self.group == "matrix" and axes_of_shard(x):
            return projection  # its values need nothing of the whole tensor, of which this is a part; an RMS would
        (rms,) = replace(self, scale=Rms(float(self.grid.levels[-1]))).measure(x, ctx)
        rms = self.groups.join(jnp.broadcast_to(rms, self.groups.split_shape(x.shape)), x.shape)
        return projection._replace(rms=rms)

    @jit_inline(0)
    def measure(self, x: Array, ctx: Context, counted: Array | None = None) -> Parts:
        """Scales of `x`. `counted`: boolean, the entries that an RMS is taken over, the others being 0; None: all."""
        if self.granularity == "matrix":
            refuse_shard(x, f"the scale of {self}")
        return self.scale.measure(self._group(x, counted), self.grid, ctx)

    def _group(self, x: Array, counted: Array | None = None) -> Group:
        full = to_float32(x, "Scalar")
        if counted is None and isinstance(self.group, int) and x.shape[-1] % self.group:
            counted = jnp.ones(x.shape, jnp.bool)
        filled = None if counted is None else self.groups.filled(counted)
        return Group(self.groups.split(full), self.groups.axes(x.ndim), filled)

    def _choosing(self, x: Array, ctx: Context) -> Array | ScaleOffset | None:
        """The scale that levels are chosen by, where it is not the one that is stored."""
        return self.scale.choosing(self._group(x), self.grid, ctx) if isinstance(self.scale, Chooses) else None

    @jit_inline(0)
    def project_by(
        self,
        parts: Parts,
        x: Array,
        keep: Array | None = None,
        *,
        key: Array | None = None,
        chosen: Array | ScaleOffset | None = None,
    ) -> Projection:
        """`project` with given scales, such as those of the dense row of a sparse tensor. `keep`: see `on_grid`.

        `key`: of what a grid draws that rounds by chance. `chosen`: the scale that levels are chosen by, if another.
        """
        split, scale = self.groups.split, self._scale(parts, x.shape)
        scaled = on_grid(
            self.grid,
            split(to_float32(x, "Scalar")),
            scale if chosen is None else chosen,
            None if keep is None else split(keep),
            uniform=self._uniform(key, x.shape),
            restored=scale,
        )
        joined = jax.tree.map(lambda y: self.groups.join(y, x.shape), scaled)
        value = in_dtype(joined.value, x.dtype)
        return joined._replace(value=value, dvalue_dscale=joined.dvalue_dscale if self.learns else None)

    def kernel_spec(self) -> Spec | Unsupported:
        """The grid, and the kernel's rule for the scale; one number that serves the matrix is given to it."""
        if self.group == "matrix" and not isinstance(self.scale, Combines) and not self.draws:
            return Spec(self.grid, ExternalScale())
        if (reason := self._without_kernel) is not None:
            return Unsupported(reason)
        assert isinstance(self.scale, HasKernelRule)
        rule = self.scale.kernel_rule(self.grid)
        if isinstance(rule, Unsupported):
            return rule
        return Spec(self.grid, rule, self.group if isinstance(self.group, int) else None)

    @property
    def _without_kernel(self) -> str | None:
        """Why no kernel computes it, where that is not up to the rule for the scale."""
        if self.draws:
            return "stochastic rounding is left to XLA: kernels draw no random numbers"
        if self.group == "matrix" or isinstance(self.group, tuple):
            return "scales of blocks, and offsets of a matrix, are left to XLA"
        if not isinstance(self.scale, HasKernelRule):
            return f"{type(self.scale).__name__} scales are left to XLA"
        if isinstance(self.group, int) and self.learns:
            return "a learned step per group is left to XLA: the kernel takes one given scale a row"
        return None

    def kernel_given(self, x: Array, ctx: Context, counted: Array | None = None) -> Array:
        """The part of the scale that a group's own is taken under, or all of it: one number for every row."""
        shared = self.measure(x, ctx, counted)[-1]
        return shared[..., 0] if isinstance(self.group, int) else shared

    @property
    def draws(self) -> bool:
        """Whether its grid rounds by random numbers, or its scales do."""
        return isinstance(self.grid, Drawn) or getattr(self.scale, "draws", False)

    def _uniform(self, key: Array | None, shape: Shape) -> Array | None:
        """A random number in [0, 1) for every value, groups apart; None for a grid that draws none."""
        if not isinstance(self.grid, Drawn):
            return None
        if key is None:
            raise UserError(f"{self.grid} needs a PRNG key in Context.key")
        return self.groups.split(jax.random.uniform(key, shape, jnp.float32))

    @property
    def learns(self) -> bool:
        """Whether the scales are learned."""
        return isinstance(self.scale, Learned)

    def learned_shape(self, shape: Shape) -> Shape:
        """Shape of the learned steps of a tensor: one per group; one in all where the group is the matrix."""
        return () if self.group == "matrix" else self.groups.scale_shape(shape)

    def initial_learned(self, x: Array) -> Array:
        """Gaussian-optimal scales of `x`, as the learned steps start."""
        scale = replace(self, scale=GAUSSIAN_RMS).measure(x, Context())[0]
        return jnp.mean(scale) if self.group == "matrix" else scale

    def learned_gain(self, shape: Shape) -> float:
        """LSQ's factor, where the scale asks for it."""
        assert isinstance(self.scale, Learned)
        return self.scale.gain(prod(shape) // max(prod(self.learned_shape(shape)), 1), self.grid)

    def expand_learned(self, learned: Array, shape: Shape) -> Array:
        """The step of every value."""
        parts = self.scale.measure(Group(learned, (), None), self.grid, Context(learned=learned))
        scale = self._scale(parts, shape)
        assert not isinstance(scale, ScaleOffset)
        return self.groups.join(jnp.broadcast_to(scale, self.groups.split_shape(shape)), shape)

    def codes_of(
        self, x: Array, parts: Parts, key: Array | None = None, chosen: Array | ScaleOffset | None = None
    ) -> Array:
        """Code of every value, in the shape of x. `key` and `chosen`: as for `project_by`."""
        normal = self._normal(x, self._scale(parts, x.shape) if chosen is None else chosen)
        uniform = self._uniform(key, x.shape)
        if isinstance(self.grid, Drawn) and uniform is not None:
            normal, _ = self.grid.drawn(normal, uniform)
        return self.groups.join(self.grid.encode(normal), x.shape)

    @partial(jax.jit, static_argnums=(0, 3))
    def values_of(self, codes: Array, parts: Parts, dtype: DTypeLike) -> Array:
        """Levels times scales, and offsets: inverse of `codes_of`."""
        level, scale = self.grid.decode(self.groups.split(codes)), self._scale(parts, codes.shape)
        value = of_level(level, scale) if isinstance(scale, ScaleOffset) else level * scale
        return in_dtype(self.groups.join(value, codes.shape), dtype)

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """A code a value, and the scales."""
        return (Field("codes", prod(shape), self.grid.codes), *self.scale_layout(shape))

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes of the values, and scales."""
        codes, parts = self._coded(x, ctx)
        return {"codes": np.asarray(codes).reshape(-1), **self.store_scales(parts)}

    @partial(jax.jit, static_argnums=0)
    def _coded(self, x: Array, ctx: Context) -> tuple[Array, Parts]:
        parts = self.measure(x, ctx)
        return self.codes_of(x, parts, ctx.key, self._choosing(x, ctx)), parts

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Values: levels times scales."""
        return self.values_of(jnp.asarray(codes["codes"]).reshape(shape), self.load_scales(codes, shape), dtype)

    def scale_layout(self, shape: Shape) -> tuple[Field, ...]:
        """The stored parts of the scales."""
        shapes = zip(self._part_shapes(shape), parts_of(self.scale, self.grid), strict=True)
        return tuple(Field(f"scales{i}", prod(form), 2**part.bits) for i, (form, part) in enumerate(shapes))

    def store_scales(self, parts: Parts) -> dict[str, Codes]:
        """Codes of the parts, by field name."""
        return {f"scales{i}": np.asarray(c, np.uint32).reshape(-1) for i, c in enumerate(self.scale.encode(parts))}

    def load_scales(self, codes: dict[str, Codes], shape: Shape) -> Parts:
        """Scales of the codes, the inverse of `store_scales`."""
        parts = self.scale.decode(tuple(jnp.asarray(codes[field.name]) for field in self.scale_layout(shape)))
        return tuple(part.reshape(form) for part, form in zip(parts, self._part_shapes(shape), strict=True))

    def _part_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if isinstance(self.scale, Learned):
            return (self.learned_shape(shape) or (1,) * len(shape),)
        return tuple(self.groups.part_shape(shape, part.shared_by) for part in parts_of(self.scale, self.grid))

    def _scale(self, parts: Parts, shape: Shape) -> Array | ScaleOffset:
        """One number a group, which broadcasts to the split tensor: what is computed of it is so once a group."""
        own, *others = parts
        if not own.ndim:
            own = own.reshape((1,) * len(self.groups.split_shape(shape)))
        return scale_of(self.scale, (own, *others), self.grid)

    def _normal(self, x: Array, scale: Array | ScaleOffset) -> Array:
        return in_steps(self.groups.split(to_float32(x, "Scalar")), scale)
