"""Kernels behind `capscale.kernels`: one operation a folder, each with a plain jnp `reference.py`."""
