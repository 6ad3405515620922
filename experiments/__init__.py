"""Experiments: each file defines `runs(ladder) -> list[Run]` for one figure or table."""
