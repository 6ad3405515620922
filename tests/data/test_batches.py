"""Batches are a pure function of (seed, step)."""

import numpy as np
import pytest

from capscale.data.batches import window_order


@pytest.mark.parametrize(("windows", "batch"), [(7, 3), (24, 8), (5, 16), (1, 2)])
def test_each_epoch_is_a_permutation(windows, batch):
    epochs = 3
    steps = -(-epochs * windows // batch)
    flat = window_order(windows, batch, seed=11, first_step=0, steps=steps).ravel()
    for epoch in range(epochs):
        visited = flat[epoch * windows : (epoch + 1) * windows]
        assert sorted(visited) == list(range(windows))


@pytest.mark.parametrize("split", [1, 2, 5, 13, 19])
def test_any_split_of_the_steps_gives_the_same_batches(split):
    whole = window_order(windows=23, batch=4, seed=3, first_step=0, steps=20)
    parts = [window_order(23, 4, 3, first, min(split, 20 - first)) for first in range(0, 20, split)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_seeds_and_epochs_give_different_orders():
    orders = [window_order(100, 100, seed, 0, 2) for seed in range(3)]
    rows = {tuple(row) for order in orders for row in order}
    assert len(rows) == 6


def test_golden_order():
    """Written down once: another numpy that drew otherwise would silently train another run under the same id."""
    order = window_order(windows=10, batch=5, seed=0, first_step=0, steps=4)
    assert order.dtype == np.int32
    assert order.tolist() == [[0, 2, 9, 1, 8], [5, 4, 3, 6, 7], [5, 3, 7, 8, 2], [4, 1, 0, 6, 9]]
