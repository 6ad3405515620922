"""Protocol of a text for training, wherever its symbols lie."""

from typing import Protocol

import numpy as np

from capscale.data.corpus import DataId


class Source(Protocol):
    """A text as windows of `context + 1` symbols: inputs and, shifted by one, targets. Windows do not share targets.

    S steps, B sequences of a global batch, U = context + 1 symbols. Windows are of an unsigned integer type.
    """

    @property
    def id(self) -> DataId:
        """The text by name and content, with the size of its vocabulary."""
        ...

    @property
    def bytes_per_symbol(self) -> float:
        """Mean bytes of text per symbol: losses in nats per symbol become bits per byte through it."""
        ...

    def check(self) -> None:
        """Raises `UserError` when any of the text is missing, cut short or altered; called ahead of the first step."""
        ...

    def batches(
        self, context: int, batch: int, seed: int, first_step: int, steps: int, *, rows: slice = slice(None)
    ) -> np.ndarray:
        """`rows` of the global batch of each of `steps` steps from `first_step` on, `(S, rows, U)`.

        A pure function of (seed, step): there is no iterator state, and any split over steps or rows gives the same
        windows.
        """
        ...

    def validation(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        """All held-out windows `(n, U)`, and the stretch of text that each is from, `int32 (n,)`.

        Windows of one stretch are of one draw for the standard error of their mean. `UserError` for a context that
        nothing held out has room for.
        """
        ...
