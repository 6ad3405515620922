"""Gradients: how the operands of the two backward products of a linear layer are held.

A step multiplies three times: `y = x w` forward; backward `dx = dy w^T`, which sums over outputs, and `dw = x^T dy`,
which sums over tokens. Each backward product projects its own two operands along the axis that it sums over.
"""

from dataclasses import dataclass
from typing import Literal

from capscale.checks import check_choice, check_whole
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import Stateful, draws, learns
from capscale.formats.dense import UNCOMPRESSED
from capscale.formats.nested import Nested
from capscale.kernels.hadamard import BASES, base_of

Source = Literal["projected", "given"]


@dataclass(frozen=True)
class BackwardProduct:
    """How one backward product holds its operands, both along the axis that it sums over.

    Attributes:
      gradient: format of the incoming gradient.
      operand: format of the other factor: the weights for the gradient of the inputs, the inputs for that of the
        weights. Dense: as the source has it.
      source: which values of that factor. "projected": those of the forward product, so that one quantized weight
        serves both directions where `operand` is dense, and is rounded once more where it is not. "given": those that
        the forward product was given before it rounded them, the master weights among them.
      hadamard: largest block of a Hadamard rotation of both operands along the axis, which their product undoes; the
        largest that divides the axis is used (`hadamard_block`). None for none.
      signs: random signs ahead of the rotation, one for each place in a block: "drawn" anew at every product of every
        step, a seed for the same throughout, None for none.

    Rounding is the format's: to the nearest level, by chance (`StochasticRounding`), or with scales that random
    rotations make unbiased (`Unbiased`, `MsEden`).
    """

    gradient: Format = UNCOMPRESSED
    operand: Format = UNCOMPRESSED
    source: Source = "projected"
    hadamard: int | None = None
    signs: int | Literal["drawn"] | None = None

    def __post_init__(self) -> None:
        check_choice(self, "source", ("projected", "given"))
        check_whole(self, "hadamard", optional=True)
        if self.signs != "drawn":
            check_whole(self, "signs", optional=True)
        if self.hadamard is not None and base_of(self.hadamard) is None:
            raise UserError(
                f"BackwardProduct(hadamard={self.hadamard}): the block must be a power of two from 2, one times "
                f"{BASES}, or None"
            )
        if self.hadamard is None and self.signs is not None:
            raise UserError(f"BackwardProduct(signs={self.signs!r}): signs belong to a rotation; give hadamard=16 too")
        for name in ("gradient", "operand"):
            format: Format = getattr(self, name)
            if isinstance(format, Nested):
                raise UserError(
                    f"BackwardProduct({name}={format!r}): nested widths are of stored weights; use Int(8), or another "
                    "format that is made anew at every product"
                )
            if isinstance(format, Stateful) or learns(format):
                raise UserError(
                    f"BackwardProduct({name}={format!r}): the backward pass has no learned scales and no state from "
                    "step to step; choose a format that measures what it needs"
                )
        if self.hadamard is not None and self.gradient == self.operand == UNCOMPRESSED:
            raise UserError(
                f"BackwardProduct(hadamard={self.hadamard}): a rotation of two dense operands does nothing but round; "
                "give a format, or hadamard=None"
            )

    @property
    def is_dense(self) -> bool:
        """True where the product is the plain one of what the forward pass multiplied."""
        return self.gradient == self.operand == UNCOMPRESSED and self.source == "projected"

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers: for rounding, or for signs."""
        return self.signs == "drawn" or self.rounds_by_chance

    @property
    def rounds_by_chance(self) -> bool:
        """Whether a format of an operand draws a number for every value."""
        return draws(self.gradient) or draws(self.operand)


DENSE_PRODUCT = BackwardProduct()


@dataclass(frozen=True)
class Gradients:
    """How both backward products are held.

    Attributes:
      inputs: the gradient of the inputs, `dx = dy w^T`: gradients and weights along outputs.
      weights: the gradient of the weights, `dw = x^T dy`: inputs and gradients along the tokens of a sequence, which
        it needs for that; sequences are added up after rounding.

    A shared number of a "matrix" is one of a sequence here (its tokens by features), so that a result does not depend
    on how many sequences a device or a micro-batch has.

    Example: `Gradients(weights=BackwardProduct(Scalar(Int(8)), Scalar(Int(8)), source="given", hadamard=16))`.
    """

    inputs: BackwardProduct = DENSE_PRODUCT
    weights: BackwardProduct = DENSE_PRODUCT

    @property
    def is_dense(self) -> bool:
        """True where both products are the plain ones."""
        return self.inputs.is_dense and self.weights.is_dense

    @property
    def draws(self) -> bool:
        """Whether either product draws random numbers."""
        return self.inputs.draws or self.weights.draws

    @property
    def rounds_by_chance(self) -> bool:
        """Whether a number is drawn for every value, for all sequences of all devices together."""
        return self.inputs.rounds_by_chance or self.weights.rounds_by_chance


DENSE_GRADIENTS = Gradients()
"""Both backward products plain."""


__all__ = ["DENSE_GRADIENTS", "DENSE_PRODUCT", "BackwardProduct", "Gradients", "Source"]
