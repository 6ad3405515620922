"""Options of `capscale plan` about attention's cache, and what is said of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.models.cache_sizes import CacheSizes


@dataclass(frozen=True)
class CacheOptions:
    """Options that say how many tokens a cache holds, and how."""

    context: int | None = None
    """Tokens of each sequence in attention's cache, whose bytes are then counted beside the weights'; none is counted
    if not given."""
    batch: int = 1
    """Sequences in the cache."""
    keys: str = "dense"
    """Format of attention's keys in the cache, each head and token by itself."""
    values: str = "dense"
    """Format of attention's values, likewise."""
    shapes: str = "paper"
    """Ladder, or file of one's own, whose shapes say how many layers and heads a model of N parameters has."""

    def cache(self) -> "CacheSizes | None":
        """Bytes of the cache by N; None where it is not counted.

        Raises:
          UserError: formats or a batch without a context, and what these cannot be.
        """
        from capscale.models.cache_sizes import CacheSizes
        from capscale.models.ladder import ladder
        from capscale.representation import Representation, operand

        if self.context is None:
            default = CacheOptions()
            if self != default:
                raise UserError("--batch, --keys, --values and --shapes are of a cache; give its tokens by --context")
            return None
        for name in ("context", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: a cache holds 1 at least")
        held = Representation(keys=operand(self.keys, per_token=True), values=operand(self.values, per_token=True))
        return CacheSizes(list(ladder(self.shapes).sizes.values()), held, self.context * self.batch)

    def said(self, sizes: "CacheSizes", planned: list[float]) -> list[str]:
        """Sentences about the cache of the planned sizes."""
        of = f"{self.batch} x {self.context:,}" if self.batch > 1 else f"{self.context or 0:,}"
        lines = [
            f"cache: keys {self.keys}, values {self.values}, of {of} tokens, counted in bytes; layers and heads are "
            f"those of the {self.shapes} ladder, between its sizes by a power of N"
        ]
        if any(not sizes.knows(N) for N in planned):
            lines.append(
                f"cache: some of these N lie outside of the ladder's {sizes.sizes[0]:.3g} to {sizes.sizes[-1]:.3g}: "
                "there its bytes are extrapolated"
            )
        if (self.keys, self.values) != ("dense", "dense"):
            lines.append(
                "cache: no law here says what rounding keys and values costs in loss; `capscale quantize --keys "
                "--values` measures it"
            )
        return lines
