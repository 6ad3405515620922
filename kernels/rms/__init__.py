"""Root mean square that does not depend on the order of summation."""

from .reference import root_mean_square

__all__ = ["root_mean_square"]
