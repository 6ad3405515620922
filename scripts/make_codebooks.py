"""Computes the Gaussian codebooks of `capscale.formats.vector` and their GMSE.

k-means on a fixed sample of N(0, I): the MSE-optimal fixed-rate grids of HIGGS (arXiv 2411.17525). Every
codebook is the best of a few seeded starts, refined on a larger sample, rounded to coordinates of 12 significant
bits and sorted;
its GMSE is measured on a third sample. Writes one .npy a codebook, and codebooks.json with how each was made.
The largest, of 256 vectors a codeword, loses 5 % more on the third sample than on that which refined it, and 2 % more
than the limit of many codewords, G_4 2 pi (3/2)^3 N^(-1/2) = 0.0254 (Zador; G_4 = 0.0766, of the lattice D4).

    python scripts/make_codebooks.py                 # all, about 7 minutes on 2 cores
    python scripts/make_codebooks.py --only d2-n16
"""

import argparse
import json
from pathlib import Path

import numpy as np
from capscale.kernels.project.spec import SIGNIFICANT
from numpy.typing import NDArray
from scipy.spatial import KDTree

FOLDER = Path(__file__).resolve().parent.parent / "capscale" / "formats" / "data"
WANTED = ((2, 4), (2, 8), (2, 16), (2, 64), (2, 256), (4, 16), (4, 256), (4, 4096))
SEED = 20250601
STARTS = 6
COARSE, FINE, TEST = 1 << 16, 1 << 20, 1 << 22  # vectors to choose a start, to refine it, to measure it
COARSE_STEPS, FINE_STEPS = 60, 60
CHUNK = 1 << 15
MANY = 1024  # codewords from which a tree finds the nearest sooner than products with all

Points = NDArray[np.float32]


def nearest(x: Points, words: Points) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Index of the nearest codeword, and the squared distance to it."""
    if len(words) < MANY:
        index = np.empty(len(x), np.int64)
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK]
            index[start : start + CHUNK] = np.argmax(part @ words.T - np.square(words).sum(1) / 2, axis=1)
    else:
        index = np.asarray(KDTree(words).query(x)[1], np.int64)
    return index, np.square(x.astype(np.float64) - words[index]).sum(axis=1)


def lloyd(x: Points, words: Points, steps: int) -> tuple[Points, float]:
    """k-means from `words`; a codeword that loses all its vectors restarts at the worst served one."""
    error = np.inf
    for _ in range(steps):
        index, distance = nearest(x, words)
        error = float(distance.mean()) / x.shape[1]
        count = np.bincount(index, minlength=len(words))
        total = np.stack([np.bincount(index, weights=column, minlength=len(words)) for column in x.T], axis=1)
        words = (total / np.maximum(count, 1)[:, None]).astype(np.float32)
        words[count == 0] = x[np.argsort(distance)[-int((count == 0).sum()) :]] if (count == 0).any() else 0
    return words, error


def rounded(words: Points) -> Points:
    """Coordinates to SIGNIFICANT significant bits, codewords in lexicographic order."""
    mantissa, exponent = np.frexp(words)
    words = np.ldexp(np.round(mantissa * 2**SIGNIFICANT) / 2**SIGNIFICANT, exponent).astype(np.float32)
    return words[np.lexsort(words.T[::-1])]


def make(dimension: int, size: int) -> tuple[Points, dict[str, float]]:
    """A codebook, and its measured GMSE."""
    rng = np.random.default_rng([SEED, dimension, size])
    coarse = rng.standard_normal((COARSE, dimension), np.float32)
    starts = [lloyd(coarse, coarse[rng.choice(COARSE, size, replace=False)], COARSE_STEPS) for _ in range(STARTS)]
    words = min(starts, key=lambda start: start[1])[0]
    words, _ = lloyd(rng.standard_normal((FINE, dimension), np.float32), words, FINE_STEPS)
    words = rounded(words)
    _, distance = nearest(rng.standard_normal((TEST, dimension), np.float32), words)
    distance /= dimension
    return words, {"gmse": float(distance.mean()), "standard_error": float(distance.std() / TEST**0.5), "seed": SEED}


def main() -> None:
    """Writes the codebooks asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {f"d{d}-n{n}": (d, n) for d, n in WANTED}
    parser.add_argument("--only", choices=names, nargs="*", default=list(names))
    index = FOLDER / "codebooks.json"
    table = json.loads(index.read_text()) if index.exists() else {}
    for name in parser.parse_args().only:
        words, table[name] = make(*names[name])
        np.save(FOLDER / f"gaussian-{name}.npy", words)
        print(f"{name}: GMSE {table[name]['gmse']:.6f} ± {table[name]['standard_error']:.6f}")
        index.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
