"""Kernels of the projection for TPUs (Pallas): `project`, `encode`, and the parts that both use."""
