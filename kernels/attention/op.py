"""Causal attention by the platform that it is compiled for: splash attention on TPUs, XLA elsewhere.

On GPUs XLA computes scores and their softmax anew in the backward pass. cudnn's attention is not used there: its
backward pass adds up in an order of its own each time (unless XLA is told to exclude that for a whole program), and a
run that was interrupted is to end on the same bits.
"""

from functools import partial
from typing import Literal

import jax
from jax import Array
from jax.typing import DTypeLike

from .. import dispatch
from ..mesh import by_rows, unknown_sharding_reason
from . import reference

Attention = Literal["xla", "xla, recomputed", "splash"]
"""XLA; XLA, once more in the backward pass in place of keeping the scores; or a Pallas kernel."""


def causal_attention(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array) -> Array:
    """`softmax(q k^T / sqrt(K)) v` over the tokens up to each one's own, (B, T, H, K) in the dtype of q.

    A key and value head serves `H / G` queries. Sequences may be split over the context mesh.
    """
    chosen = choose(q_BTHK.shape, q_BTHK.dtype)
    if chosen == "splash":
        from . import tpu

        run = by_rows(partial(tpu.causal_attention, interpret=dispatch.current().interpret))
    else:
        run = (
            reference.causal_attention
            if chosen == "xla"
            else jax.checkpoint(reference.causal_attention, prevent_cse=False)
        )
    return run(q_BTHK, k_BTGK, v_BTGK)


def choose(shape_BTHK: tuple[int, ...], dtype: DTypeLike) -> Attention:
    """Program for queries of this shape and dtype, on the platform in force; see `dispatch.choose`."""
    platform = dispatch.current().platform
    if platform != "tpu":  # decided without `dispatch`: there is no kernel that "require" could ask for
        return "xla" if platform == "cpu" or dispatch.mode() == "reference" else "xla, recomputed"
    split = unknown_sharding_reason()

    def unsupported(_: dispatch.Backend) -> str | None:
        from . import tpu

        return split or tpu.unsupported(shape_BTHK, dtype)

    on = (shape_BTHK, str(dtype), split)
    backend = dispatch.choose("attention", on, unsupported, detail=f"{dtype}{list(shape_BTHK)}")
    return "splash" if backend == "tpu" else "xla"
