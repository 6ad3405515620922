"""Roundings of runs of neighbours: one scale for a group, one code for a run, and how both are stored."""

from dataclasses import replace
from functools import partial
from math import log2, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline

from .base import Context, Granularity, Projection
from .scalar import Parts
from .storage import Codes, Field, Shape


class VectorRounding:
    """Runs of `run` neighbours to one of `codes` points, in units of the scale that `scaling` measures.

    A format derived from it has these three, a field `group`, and `project_by`, `codes_of` and `values_of`.
    """

    @property
    def bits(self: Any) -> float:
        """A code a run, plus a scale's share of its group."""
        return log2(self.codes) / self.run + self.scaling.bits - log2(self.scaling.grid.codes)

    @property
    def granularity(self: Any) -> Granularity:
        """Granularity of the scales."""
        return self.scaling.granularity

    def per_row(self: Any) -> Any:
        """One scale per row where one served the matrix."""
        return replace(self, group="row" if self.group == "matrix" else self.group)

    @property
    def learns(self) -> bool:
        """Whether the scales are learned: they are measured."""
        return False

    def measure(self: Any, x: Array, ctx: Context, counted: Array | None = None) -> Parts:
        """The scale of each group; see `Scalar.measure`."""
        if x.shape[-1] % self.run:
            raise UserError(f"vectors of {self.run} need a width that it divides, not {x.shape[-1]}")
        return self.scaling.measure(x, ctx, counted)

    def _scale(self: Any, parts: Parts, shape: Shape) -> Array:
        """The scale of every value."""
        groups = self.scaling.groups
        return groups.join(jnp.broadcast_to(parts[0], groups.split_shape(shape)), shape)

    @jit_inline(0)
    def project(self: Any, x: Array, ctx: Context) -> Projection:
        """Nearest point of each run, at the scale that is measured."""
        return self.project_by(self.measure(x, ctx), x)

    def layout(self: Any, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """A code a run, and the scales."""
        return Field("codes", prod(shape) // self.run, self.codes), *self.scale_layout(shape)

    def store(self: Any, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes of the runs, and scales."""
        codes, parts = self._coded(x, ctx)
        return {"codes": np.asarray(codes, np.uint32).reshape(-1), **self.store_scales(parts)}

    @partial(jax.jit, static_argnums=0)
    def _coded(self: Any, x: Array, ctx: Context) -> tuple[Array, Parts]:
        parts = self.measure(x, ctx)
        return self.codes_of(x, parts), parts

    def load(self: Any, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Values: points times scales."""
        index = jnp.asarray(codes["codes"]).reshape(*shape[:-1], shape[-1] // self.run)
        return self.values_of(index, self.load_scales(codes, shape), dtype)

    def scale_layout(self: Any, shape: Shape) -> tuple[Field, ...]:
        """The scales as they are stored."""
        return self.scaling.scale_layout(shape)

    def store_scales(self: Any, parts: Parts) -> dict[str, Codes]:
        """Codes of the scales, by field name."""
        return self.scaling.store_scales(parts)

    def load_scales(self: Any, codes: dict[str, Codes], shape: Shape) -> Parts:
        """Scales of the codes, the inverse of `store_scales`."""
        return self.scaling.load_scales(codes, shape)
