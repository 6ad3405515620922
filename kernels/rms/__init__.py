"""Root mean square and largest magnitude that do not depend on the order of reduction."""

from .reference import largest_magnitude, root_mean_square

__all__ = ["largest_magnitude", "root_mean_square"]
