"""Which windows make which batch: a pure function of (seed, step), the same on any number of hosts."""

import numpy as np


def window_order(windows: int, batch: int, seed: int, first_step: int, steps: int) -> np.ndarray:
    """Window numbers of the batches of `steps` steps from `first_step` on.

    Every epoch visits every window once, in an order that depends on the seed and the epoch alone, so a
    resumed run needs no iterator state.

    Returns:
      `int32 (steps, batch)`, entries below `windows`.
    """
    position = np.arange(first_step * batch, (first_step + steps) * batch)
    epoch, offset = np.divmod(position, windows)
    order = np.empty(len(position), np.int32)
    for number in np.unique(epoch):
        # Sorting raw Philox words rests on the cipher alone; numpy may change how its shuffles draw.
        shuffled = np.argsort(np.random.Philox(key=[seed, number]).random_raw(windows), kind="stable")
        chosen = epoch == number
        order[chosen] = shuffled[offset[chosen]]
    return order.reshape(steps, batch)
