"""Settings of the kernels that the environment gives: their names, and where each is read."""

import os

KERNELS = "CAPSCALE_KERNELS"
"""`reference`, `auto` or `require`; see `dispatch`."""
PRODUCTS = "CAPSCALE_PRODUCTS"
"""`values`, `auto` or `codes`; see `products`."""
TILES = "CAPSCALE_TILES"
"""Path of a table of tiles that `scripts/autotune_project.py` wrote; see `project.tpu.tiles`."""


def setting(name: str) -> str | None:
    """The value of one of these in the environment, read anew at every call; None where it is not set."""
    return os.environ.get(name)
