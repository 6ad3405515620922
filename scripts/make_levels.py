"""Computes the Lloyd-Max levels of Gaussian data that `capscale.formats.lloyd_max` reads.

    python scripts/make_levels.py                  # prints them, and how far the stored ones are
    python scripts/make_levels.py --write          # stores them anew: runs of those formats then have other ids

Newton's method on the condition that every level is the mean of its cell, from the companding density `p^(1/3)`, which
is that of N(0, 3). The last bits are those of the machine's exponential and of its linear algebra, which is why the
levels are stored; those of 2 bits are as a machine with AVX-512 found them, whose runs are committed.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.linalg import solve_banded

from capscale.formats.distributions import NORMAL, Array64

STORED = Path(__file__).resolve().parent.parent / "capscale" / "formats" / "data" / "lloyd_max.json"
NEWTON_STEPS = 50  # it converges quadratically from that start: 6 to 8 are used
CONVERGED = 1e-12  # of levels of order 1; the error of a grid moves by the square


def solved(bits: int) -> Array64:
    """The 2^bits levels of least error, ascending."""
    count = 2**bits
    levels = NORMAL.quantile((np.arange(count) + 0.5) / count) * np.sqrt(3.0)
    for _ in range(NEWTON_STEPS):
        middle = (levels[1:] + levels[:-1]) / 2
        low, high = np.concatenate([[-np.inf], middle]), np.concatenate([middle, [np.inf]])
        mass, first, _ = NORMAL.moments(low, high)
        mean = first / mass
        # d mean / d boundary: the density at the boundary times its distance from the mean.
        up = NORMAL.pdf(middle) * (middle - mean[:-1]) / mass[:-1] / 2
        down = NORMAL.pdf(middle) * (mean[1:] - middle) / mass[1:] / 2
        own = np.concatenate([up, [0.0]]) + np.concatenate([[0.0], down])
        jacobian = np.stack([np.concatenate([[0.0], -up]), 1 - own, np.concatenate([-down, [0.0]])])
        move = solve_banded((1, 1), jacobian, mean - levels)
        levels = levels + move
        if np.max(np.abs(move)) < CONVERGED:
            break
    return (levels - levels[::-1]) / 2


def main() -> None:
    """Prints the levels above zero, or stores them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="store them")
    arguments = parser.parse_args()
    found = {str(bits): solved(bits)[2 ** (bits - 1) :].tolist() for bits in range(1, 9)}
    stored = json.loads(STORED.read_text())
    for bits, levels in found.items():
        apart = np.max(np.abs(np.subtract(levels, stored[bits])))
        print(f"{bits} bits: {levels[:4]}{' ...' if len(levels) > 4 else ''}, {apart:.1e} from the stored ones")
    if arguments.write:
        STORED.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
