"""How a step trades time for memory."""

from dataclasses import dataclass

from capscale.checks import check_flag, check_whole
from capscale.errors import UserError


@dataclass(frozen=True)
class Memory:
    """Memory settings of a step. They are in no run's id: results depend on them by rounding alone.

    Attributes:
      remat: keep only each layer's input for the backward pass and compute the layer anew there.
      microbatches: parts of a batch that are done one after the other, their gradients added up; a divisor of the
        batch. Weights are compressed once for all of them.
    """

    remat: bool = False
    microbatches: int = 1

    def __post_init__(self):
        check_flag(self, "remat")
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
