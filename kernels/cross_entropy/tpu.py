"""Cross-entropy on a TPU in two passes over the logits: they are written once, and read once.

              V outputs of the head
            +-----+-----+-----+--    1 `_logits`: a block of logits, x head^T, goes to HBM; of its lanes, 128 at a time,
     rows   | 256 |     |     |        stay the largest so far, the sum of exponentials relative to it, and the target's
    of x    +-----+-----+-----+--      logit: (rows, 128) each, put together across lanes by XLA
            |     |     |     |
            +-----+-----+-----+--    2 `_gradients`: the block comes back, becomes the gradient by logits in bfloat16,
                                       goes to HBM for the gradient of the head, and is multiplied with the head's block

Both grids walk (rows, V), V innermost. XLA by itself reads the logits three times: for the sum, and for each product.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..vmem import SPILLED, VMEM
from .reference import CrossEntropyGradients

LANES = 128
OUTPUTS = (256, 128)  # of the head in a block: the most that divide the vocabulary
ROWS = (1024, 512, 256, 128)  # in a block: the most that divide the rows and fit into VMEM
STRIP = 128  # rows at a time, so that sums stay in registers


def vmem_bytes(rows: int, outputs: int, width: int) -> int:
    """VMEM of the larger pass, the second, every block twice: head, logits, their gradients, that of x, two columns."""
    return 2 * (outputs * width * 2 + rows * outputs * (4 + 2) + rows * width * 4 + 2 * rows * LANES * 4)


def blocks(rows: int, vocabulary: int, width: int) -> tuple[int, int] | None:
    """Rows and outputs of a block; None where nothing divides them or fits into VMEM."""
    choices = ((r, o) for o in OUTPUTS for r in ROWS if rows % r == 0 and vocabulary % o == 0)
    return next((choice for choice in choices if vmem_bytes(*choice, width) + SPILLED <= VMEM), None)


def unsupported(rows: int, vocabulary: int, width: int, dtype: jax.typing.DTypeLike) -> str | None:
    """Why these kernels cannot run, or None."""
    if jnp.dtype(dtype) != jnp.bfloat16:
        return f"the head is multiplied in {jnp.dtype(dtype)}; the kernels multiply bfloat16"
    if rows % ROWS[-1] or vocabulary % OUTPUTS[-1]:
        return f"{rows} tokens by {vocabulary} symbols are no multiples of {ROWS[-1]} by {OUTPUTS[-1]}"
    if blocks(rows, vocabulary, width) is None:
        return f"{ROWS[-1]} rows of {width} features do not fit into {VMEM >> 20} MiB"
    return None


def cross_entropy(x_BTM: Array, head_VM: Array, target_BT: Array, interpret: bool = False) -> CrossEntropyGradients:
    """As `reference.cross_entropy`, for bfloat16."""
    x_RM, target_R1 = x_BTM.reshape(-1, x_BTM.shape[-1]), target_BT.reshape(-1, 1).astype(jnp.int32)
    logit_RV, largest_RL, total_RL, chosen_RL = _logits(x_RM, head_VM, target_R1, interpret)
    largest_R1 = jnp.max(largest_RL, axis=-1, keepdims=True)
    total_R1 = jnp.sum(total_RL * jnp.exp(largest_RL - largest_R1), axis=-1, keepdims=True)
    norm_R1 = largest_R1 + jnp.log(total_R1)
    slope_RV, dx_RM = _gradients(logit_RV, norm_R1, head_VM, target_R1, interpret)
    loss = jnp.sum(norm_R1) - jnp.sum(chosen_RL)
    return CrossEntropyGradients(loss, slope_RV.reshape(*target_BT.shape, -1), dx_RM.reshape(x_BTM.shape))


def _call(kernel: Any, shape_RVM: tuple[int, int, int], name: str, interpret: bool, bytes_: int) -> Any:
    """`pallas_call` over blocks of rows and outputs, with block specifications by what an operand's axes are."""
    rows, vocabulary, width = shape_RVM
    chosen = blocks(rows, vocabulary, width)
    assert chosen is not None
    row_block, output_block = chosen
    specs = {
        "RV": pl.BlockSpec((row_block, output_block), lambda i, j: (i, j)),
        "RM": pl.BlockSpec((row_block, width), lambda i, j: (i, 0)),
        "VM": pl.BlockSpec((output_block, width), lambda i, j: (j, 0)),
        "RL": pl.BlockSpec((row_block, LANES), lambda i, j: (i, 0)),
        "R1": pl.BlockSpec((row_block, 1), lambda i, j: (i, 0)),
    }

    def call(operands: dict[str, tuple[str, Array]], results: dict[str, tuple[str, jax.ShapeDtypeStruct]]) -> Any:
        return pl.pallas_call(
            kernel,
            grid=(rows // row_block, vocabulary // output_block),
            in_specs=[specs[axes] for axes, _ in operands.values()],
            out_specs=[specs[axes] for axes, _ in results.values()],
            out_shape=[shape for _, shape in results.values()],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
            cost_estimate=pl.CostEstimate(
                flops=2 * rows * vocabulary * width,
                transcendentals=rows * vocabulary,
                bytes_accessed=bytes_ + rows // row_block * vocabulary * width * 2,
            ),
            interpret=interpret,
            name=name,
        )(*(operand for _, operand in operands.values()))

    return call


def _logits(x_RM: Array, head_VM: Array, target_R1: Array, interpret: bool) -> list[Array]:
    """Logits of every row, and of every 128th from each lane on the largest, the sum and the target's."""
    (rows, width), vocabulary = x_RM.shape, len(head_VM)
    sums = jax.ShapeDtypeStruct((rows, LANES), jnp.float32)
    moved = rows * (vocabulary * 4 + width * 2 + 3 * LANES * 4)
    return _call(_logits_kernel, (rows, vocabulary, width), "capscale_logits", interpret, moved)(
        {"x": ("RM", x_RM), "head": ("VM", head_VM), "target": ("R1", target_R1)},
        {
            "logits": ("RV", jax.ShapeDtypeStruct((rows, vocabulary), jnp.float32)),
            "largest": ("RL", sums),
            "total": ("RL", sums),
            "chosen": ("RL", sums),
        },
    )


def _logits_kernel(  # noqa: PLR0917 operands and results, as Pallas hands them over
    x_ref: Any, head_ref: Any, target_ref: Any, logit_ref: Any, largest_ref: Any, total_ref: Any, chosen_ref: Any
) -> None:
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _() -> None:
        largest_ref[...] = jnp.full(largest_ref.shape, -jnp.inf, jnp.float32)
        total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)
        chosen_ref[...] = jnp.zeros(chosen_ref.shape, jnp.float32)

    outputs = head_ref.shape[0]
    for first in range(0, x_ref.shape[0], STRIP):
        strip = pl.ds(first, STRIP)
        logit_SV = _product(x_ref[strip, :], head_ref[...], transposed=True)
        logit_ref[strip, :] = logit_SV
        parts = [logit_SV[:, column : column + LANES] for column in range(0, outputs, LANES)]
        before_SL = largest_ref[strip, :]
        largest_SL = before_SL
        for part_SL in parts:
            largest_SL = jnp.maximum(largest_SL, part_SL)
        total_SL, chosen_SL = total_ref[strip, :] * jnp.exp(before_SL - largest_SL), chosen_ref[strip, :]
        for number, part_SL in enumerate(parts):
            total_SL = total_SL + jnp.exp(part_SL - largest_SL)
            is_target_SL = _is_target(target_ref[strip, :], block * outputs + number * LANES)
            chosen_SL = chosen_SL + jnp.where(is_target_SL, part_SL, 0.0)
        largest_ref[strip, :], total_ref[strip, :], chosen_ref[strip, :] = largest_SL, total_SL, chosen_SL


def _gradients(
    logit_RV: Array, norm_R1: Array, head_VM: Array, target_R1: Array, interpret: bool
) -> tuple[Array, Array]:
    """Gradients by logits, in the dtype of the head, and by features, float32."""
    (rows, vocabulary), width = logit_RV.shape, head_VM.shape[1]
    moved = rows * (vocabulary * (4 + 2) + width * 4)
    slope_RV, dx_RM = _call(_gradients_kernel, (rows, vocabulary, width), "capscale_slopes", interpret, moved)(
        {
            "logits": ("RV", logit_RV),
            "norm": ("R1", norm_R1),
            "head": ("VM", head_VM),
            "target": ("R1", target_R1),
        },
        {
            "slopes": ("RV", jax.ShapeDtypeStruct((rows, vocabulary), head_VM.dtype)),
            "dx": ("RM", jax.ShapeDtypeStruct((rows, width), jnp.float32)),
        },
    )
    return slope_RV, dx_RM


def _gradients_kernel(  # noqa: PLR0917 as above
    logit_ref: Any, norm_ref: Any, head_ref: Any, target_ref: Any, slope_ref: Any, dx_ref: Any
) -> None:
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _() -> None:
        dx_ref[...] = jnp.zeros(dx_ref.shape, jnp.float32)

    outputs = head_ref.shape[0]
    for first in range(0, logit_ref.shape[0], STRIP):
        strip = pl.ds(first, STRIP)
        norm_SL = jnp.broadcast_to(norm_ref[strip, :], (STRIP, LANES))
        for column in range(0, outputs, LANES):
            lanes = pl.ds(column, LANES)
            is_target_SL = _is_target(target_ref[strip, :], block * outputs + column)
            slope_SL = jnp.exp(logit_ref[strip, lanes] - norm_SL) - is_target_SL.astype(jnp.float32)
            slope_ref[strip, lanes] = slope_SL.astype(slope_ref.dtype)
        dx_ref[strip, :] += _product(slope_ref[strip, :], head_ref[...], transposed=False)


def _is_target(target_S1: Array, first: Array | int) -> Array:
    """Whether each of 128 outputs from `first` on is the target of its row."""
    shape = (STRIP, LANES)
    return lax.broadcasted_iota(jnp.int32, shape, 1) == jnp.broadcast_to(target_S1, shape) - first


def _product(a: Array, b: Array, transposed: bool) -> Array:
    """`a b`, or `a b^T`, summed in float32."""
    return lax.dot_general(a, b, (((1,), (int(transposed),)), ((), ())), preferred_element_type=jnp.float32)
