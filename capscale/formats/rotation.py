"""Blocks of Hadamard rotations: how long they are for a width."""

from capscale.errors import UserError

LARGEST_BLOCK = 128  # QuEST, arXiv 2502.05003


def hadamard_block(width: int, largest: int = LARGEST_BLOCK) -> int:
    """Largest power of two up to `largest` that divides `width`; widths without one are refused."""
    block = min(largest, width & -width)
    if block < 2:
        raise UserError(
            f"width {width} is odd, so no Hadamard block of 2 or more divides it; use a width that a power of two "
            f"divides, such as {width + 1}, or hadamard=None"
        )
    return block
