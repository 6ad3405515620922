"""How a step trades time for memory, and for time to compile."""

from dataclasses import dataclass
from typing import Literal, get_args

from capscale.checks import check_choice, check_flag, check_whole
from capscale.errors import UserError

Gather = Literal["layer", "step", "codes"]
"""When devices that share one copy of the parameters gather them: each layer of each micro-batch, or once a step, as
values or as codes."""
Reduce = Literal["float32", "bfloat16"]
"""Dtype of gradients of matrices between devices. As it moves results, it is a run's (`train.run.Optimizer`)."""


@dataclass(frozen=True)
class Memory:
    """Memory settings of a step. They are in no run's id: results depend on them by rounding alone.

    Attributes:
      remat: keep only each layer's input for the backward pass and compute the layer anew there.
      microbatches: parts of a batch that are done one after the other, their gradients added up; a divisor of the
        batch. Weights are compressed once for all of them.
      gather: of devices that share one copy of the parameters. By "layer" each holds a part of them at any time, and
        they are sent twice, and their gradients once, for every micro-batch. By "step" each holds all of them and all
        of their gradients in float32 while a step lasts, and both are sent once. By "codes" the same, and weights of a
        format that has codes are sent and held in these, and decoded where they are multiplied: the same numbers.
        Representations that draw noise for all tokens at once (activations or gradients rounded by chance) go by
        "layer" whatever is asked.
      unroll: write all layers out, one after the other, in place of a loop over one compiled body (`nn.scan`). What the
        backward pass needs is then not copied into arrays of all layers and out of them; XLA takes several times as
        long to compile.
    """

    remat: bool = False
    microbatches: int = 1
    gather: Gather = "layer"
    unroll: bool = False

    def __post_init__(self):
        check_flag(self, "remat", "unroll")
        check_choice(self, "gather", get_args(Gather))
        check_whole(self, "microbatches", least=1)

    def check(self, batch: int, devices: int) -> None:
        """Raises `UserError` when a batch does not split over the micro-batches and devices evenly."""
        if batch % (self.microbatches * devices):
            raise UserError(
                f"batch={batch} sequences do not split over {self.microbatches} micro-batches on {devices} devices; "
                f"use fewer, so that their product divides {batch}"
            )


AT_ONCE = Memory()
"""Everything of a step at once."""
