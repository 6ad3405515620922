"""Kernels of the projection for Hopper GPUs (Mosaic GPU): `project`, `encode`, and the parts that both use."""
