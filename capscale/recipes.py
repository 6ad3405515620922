"""Recipes: published ways to train with all three products of linear layers compressed, as whole representations.

Each is the value of one name (`find_recipe`). The sources are what was read, and in what form. All are of linear layers
alone; layers that a paper leaves dense (NVIDIA's first and last blocks) are a matter of who applies them.

Two things differ from every source. An activation is rounded by its own token: what a source shares over a tensor (the
outer scale of NVFP4, the scale of FP8) is a token's here, so that no token sees a later one. And a tensor's number in
the backward pass is a sequence's, so that results depend on neither devices nor micro-batches. Groups of 16 and 32 may
end in a shorter one, as padding with zeros makes them; tiles of weights have to divide.
"""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

from capscale.errors import UserError
from capscale.formats.catalog import find
from capscale.gradients import DENSE_GRADIENTS, BackwardProduct, Gradients
from capscale.operands import operand
from capscale.representation import Representation


def _through(name: str, activations: str | None = None) -> tuple:
    """Weights and activations with straight-through gradients."""
    sides = (name, False), (activations or name, True)
    return tuple(operand(f"{format} [straight-through]", per_token=per_token) for format, per_token in sides)


def _nvfp4() -> Representation:
    """NVFP4 pretraining (NVIDIA, arXiv 2509.25149, section 4 and Figure 5, read in its text).

    Weights in tiles of 16 x 16, of which the backward pass takes the quantized values again; activations and gradients
    in groups of 16. The gradient of the weights rotates its operands in blocks of 16, under one sign vector for the
    whole of training, and rounds activations as they were given; only gradients are rounded by chance.
    """
    inputs = BackwardProduct(find("nvfp4-stochastic"))
    weights = BackwardProduct(find("nvfp4-stochastic"), find("nvfp4"), "given", 16, 0)
    return Representation(*_through("nvfp4-g16x16", "nvfp4"), gradients=Gradients(inputs, weights))


def _quartet() -> Representation:
    """Quartet (arXiv 2505.14669), after its authors' code (IST-DASLab/Quartet: quantizers/mxfp4, backward).

    Forward QuEST's MXFP4 in blocks of 32, its mask passing what does not saturate; backward all four operands by chance
    at 3/4 of the range, the forward pass's values among them, in blocks of 32 with signs drawn at every step.
    """
    forward = [operand("e2m1-g32@e8m0-rms-ragged [clip 1]", per_token=side) for side in (False, True)]
    unclipped = find("e2m1-g32@e8m0-three-quarters-stochastic-ragged")
    product = BackwardProduct(unclipped, unclipped, hadamard=32, signs="drawn")
    return Representation(*forward, hadamard=32, gradients=Gradients(product, product))


def _quartet2() -> Representation:
    """Quartet II (arXiv 2601.22813): its abstract, its authors' code (IST-DASLab/Quartet-II) and Algorithm 1 as
    restated by others were read, the paper's text was not.

    Forward NVFP4 in groups of 16 with "four over six"; backward all four operands by MS-EDEN, the forward pass's values
    among them, in blocks of 128 with signs drawn at every step.
    """
    eden = find("e2m1-g16@e4m3-ms-eden-ragged")
    product = BackwardProduct(eden, eden, hadamard=128, signs="drawn")
    forward = _through("nvfp4-four-over-six-ragged")
    return Representation(*forward, gradients=Gradients(product, product))


def _mxfp4() -> Representation:
    """MXFP4 with stochastic rounding (arXiv 2502.20586), after its authors' code (amazon-science/mxfp4-llm).

    The forward pass is dense; backward both operands of both products by chance at 3/4 of the range, in blocks of 64
    with signs drawn at every product.
    """
    unclipped = find("e2m1-g32@e8m0-three-quarters-stochastic-ragged")
    product = BackwardProduct(unclipped, unclipped, hadamard=64, signs="drawn")
    return Representation(gradients=Gradients(product, product))


def _fp8(gradient: str) -> Representation:
    """FP8 with one scale a tensor from its largest magnitude: E4M3 forward, of gradients E5M2, or E4M3 as well.

    Quantized weights and activations serve backward too, as one copy and its transpose. After the formats' roles in
    arXiv 2209.05433, known from summaries; scales there come from a history, here from the tensor itself.
    """
    product = BackwardProduct(find(f"absmax-{gradient}-matrix"))
    return Representation(*_through("absmax-e4m3-matrix"), gradients=Gradients(product, product))


def _deepseek() -> Representation:
    """DeepSeek-V3's FP8 (arXiv 2412.19437, section 3.3 and its advice on hardware, read in part).

    E4M3 throughout: weights in tiles of 128 x 128, of which the backward pass takes the values again; activations and
    gradients in groups of 128 along what is summed. Activations are rounded along features forward, and those values
    once more along tokens.
    """
    grouped = find("absmax-e4m3-g128")
    gradients = Gradients(BackwardProduct(grouped), BackwardProduct(grouped, grouped))
    return Representation(*_through("absmax-e4m3-g128x128", "absmax-e4m3-g128"), gradients=gradients)


def _int8() -> Representation:
    """INT8 mixed precision (torchao, prototype/quantized_training/int8_mixed_precision.py, read).

    All six operands as they are given, to the nearest of 255 levels, one scale from the largest magnitude for each row
    along what is summed.
    """
    product = BackwardProduct(find("absmax-mid-tread-int8"), find("absmax-mid-tread-int8"), "given")
    return Representation(*_through("absmax-mid-tread-int8"), gradients=Gradients(product, product))


RECIPES: Mapping[str, Representation] = MappingProxyType({
    "nvfp4-pretraining": _nvfp4(),
    "quartet": _quartet(),
    "quartet2": _quartet2(),
    "mxfp4-backward": _mxfp4(),
    "fp8-e5m2": _fp8("e5m2"),
    "fp8-e4m3": _fp8("e4m3"),
    "deepseek-fp8": _deepseek(),
    "int8-training": _int8(),
})  # fmt: skip
"""Whole recipes by name. Their gradients have the same names (`capscale.gradient_names`)."""


def find_recipe(name: str) -> Representation:
    """The recipe of this name.

    Raises:
      UserError: there is none.

    Example: `find_recipe("quartet").gradients.draws` is True.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = get_close_matches(name, RECIPES, n=2, cutoff=0.4)
    hint = f"; closest: {', '.join(close)}" if close else ""
    raise UserError(f"unknown recipe {name!r}{hint}; recipes: {', '.join(RECIPES)}")


def recipe_name(representation: Representation) -> str | None:
    """Name of the recipe that a representation is; None for others."""
    return next((name for name, known in RECIPES.items() if known == representation), None)


def forward_only(representation: Representation) -> Representation:
    """The same operands of the forward product, gradients dense."""
    return replace(representation, gradients=DENSE_GRADIENTS)


def backward_only(representation: Representation) -> Representation:
    """Dense operands forward, the same gradients."""
    return Representation(gradients=representation.gradients)
