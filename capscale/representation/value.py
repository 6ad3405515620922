"""Representation: how the operands of a layer are held, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from jax import Array

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.formats.base import granularity_of
from capscale.formats.capabilities import Stateful, learns
from capscale.formats.catalog import label
from capscale.formats.nested import Nested
from capscale.formats.rotation import hadamard_block, turned, turned_back
from capscale.formats.stages import stages_of
from capscale.gradients import DENSE_GRADIENTS, Gradients
from capscale.kernels.hadamard import BASES, base_of
from capscale.operands import DENSE_OPERAND, Operand
from capscale.parametrizations import Parametrization, parametrization_name

_BY_TOKEN = ("activations", "keys", "values")
"""Operands that are projected token by token."""


@dataclass(frozen=True)
class Representation:
    """How the weights, the activations and the gradients of a linear layer are held, and what attention caches.

    `hadamard`: largest block of the Hadamard rotation of the input axis, or None. The block used is the largest one up
    to it that divides the width: of powers of two, and where it is 12, 20, 28 or 36 times one, of such products too
    (1792 makes one block of 576, 640 or 1792 inputs). Both operands are rotated when both are compressed; a single
    compressed operand is rotated forth and back.
    `signs`: seed of random signs that every row is multiplied by ahead of the rotation, the same for all rows of a
    width, so that no input lies along a row of the Hadamard matrix; None for none.
    `gradients`: what the two backward products project their own operands to; see `capscale.gradients`.
    `keys`, `values`: what attention reads of earlier tokens, each head and token by itself, as a cache would hold them:
    keys after their rotary positions. A rotation is along a head's features, forth and back. Linear layers do not see
    them.
    `parametrization`: what the weights are computed from, where other numbers than they are stored and trained; None
    where the weights are. They are not rounded then: a format would be of numbers that nobody stores.
    Estimators that an operand leaves open become the defaults for its format and this rotation.

    Example: `Representation(operand("int4"), operand("int8", per_token=True), hadamard=128)`.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"signs": None, "gradients": DENSE_GRADIENTS, "keys": DENSE_OPERAND, "values": DENSE_OPERAND}
        | {"parametrization": None}
    )

    weights: Operand = DENSE_OPERAND
    activations: Operand = DENSE_OPERAND
    hadamard: int | None = None
    signs: int | None = None
    gradients: Gradients = DENSE_GRADIENTS
    keys: Operand = DENSE_OPERAND
    values: Operand = DENSE_OPERAND
    parametrization: Parametrization | None = None

    def __post_init__(self) -> None:
        check_whole(self, "hadamard", "signs", optional=True)
        block = self.hadamard
        for side in ("weights", *_BY_TOKEN):
            operand: Operand = getattr(self, side)
            if operand.estimator is None:
                filled = Operand(operand.format, operand.backward(rotated=block is not None))
                object.__setattr__(self, side, filled)
        if block is not None and base_of(block) is None:
            raise UserError(
                f"Representation(hadamard={block}): the block must be a power of two from 2, one times {BASES}, or None"
            )
        if block is None and self.signs is not None:
            raise UserError(f"Representation(signs={self.signs}): signs belong to a rotation; give hadamard=128 too")
        if block is not None and isinstance(self.weights.format, Stateful):
            raise UserError(
                f"weights={self.weights.format!r} keep a state of the matrix itself, so they cannot be rotated; "
                "use hadamard=None"
            )
        self._refuse_parametrization()
        for operand in (self.weights, self.activations, self.keys, self.values):
            stages = stages_of(operand.format)
            if block is not None and stages.rotates_between and stages.sparse and stages.rounding:
                other = f"{label(stages.sparse)}+{label(stages.rounding)}"
                raise UserError(
                    f"{label(operand.format)} rotates what it keeps by itself, and hadamard={block} would rotate "
                    f"before that as well; use hadamard=None, or {other} to prune in the rotated basis"
                )
        self._check_by_token()

    def _check_by_token(self) -> None:
        """Raises `UserError` for formats that cannot hold a token by itself."""
        for side in _BY_TOKEN:
            format = getattr(self, side).format
            if isinstance(format, Nested):
                raise UserError(
                    f"{side}={label(format)}: nested widths are of one stored tensor, the weights; use affine-int8, or "
                    "another format that is made anew for every token"
                )
            if isinstance(format, Stateful):
                raise UserError(f"{side}={format!r} have no state from step to step; use TopK")
            if granularity_of(format) != "row":
                raise UserError(
                    f"{side}={format!r} would let one token see others; choose a format that "
                    "works per row, such as TopK(..., granularity='row') or Scalar(..., group='row')"
                )
        for side in ("keys", "values"):
            format = getattr(self, side).format
            if learns(format):
                raise UserError(
                    f"{side}={format!r} learns a scale, which attention has no parameter for; choose a format that "
                    "measures its scale"
                )

    def _refuse_parametrization(self) -> None:
        if not isinstance(self.parametrization, Parametrization | None):
            raise UserError(f"Representation(parametrization={self.parametrization!r}): use Shared(4), LowRank(8), ...")
        if self.parametrization is not None and not self.weights.is_dense:
            raise UserError(
                f"weights={label(self.weights.format)} with parametrization={self.parametrization}: formats round a "
                "matrix, and what is stored of this one are other numbers; leave weights dense"
            )

    @property
    def rotates_both(self) -> bool:
        """True where both operands are compressed in the rotated basis and stay there."""
        return self.hadamard is not None and not self.weights.is_dense and not self.activations.is_dense

    @property
    def rotation(self) -> int | str | None:
        """The rotation as tables tell it: 128, `128 signs 7` with random signs, None for none."""
        return self.hadamard if self.signs is None else f"{self.hadamard} signs {self.signs}"

    @property
    def weights_label(self) -> str:
        """Name in tables of what the weights are held in: a format, or a parametrization."""
        held = self.parametrization
        return label(self.weights.format) if held is None else parametrization_name(held)

    @property
    def caches_compressed(self) -> bool:
        """Whether attention reads compressed keys or values."""
        return not (self.keys.is_dense and self.values.is_dense)

    @property
    def needs_given_weights(self) -> bool:
        """Whether a backward product takes the weights as they are before they are projected."""
        return self.gradients.inputs.source == "given" and not self.weights.is_dense

    @property
    def needs_given_activations(self) -> bool:
        """Whether a backward product takes the activations as they are before they are projected."""
        return self.gradients.weights.source == "given" and not self.activations.is_dense


DENSE = Representation()
"""Neither operand compressed: `linear` is the plain product."""


def rotated_block(width: int, representation: Representation) -> int | None:
    """Block of the rotation of an axis of `width`; None where there is no rotation."""
    return None if representation.hadamard is None else hadamard_block(width, representation.hadamard)


def rotated(x: Array, representation: Representation, axis: int = -1) -> Array:
    """The axis rotated block by block, behind random signs where there are some; `x` where there is no rotation."""
    return turned(x, rotated_block(x.shape[axis], representation), representation.signs, axis)


def rotated_back(x: Array, representation: Representation, axis: int = -1) -> Array:
    """Inverse of `rotated`: the rotation is its own, and so are the signs."""
    return turned_back(x, rotated_block(x.shape[axis], representation), representation.signs, axis)
