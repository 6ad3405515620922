"""First and last blocks dense against all blocks alike, at equal formats and at equal bytes.

INT4, INT3 and INT2 weights under a Hadamard rotation in every block; in every block but the first, or but the last;
and, of models with three blocks or more, in all but both. With dense models of the same sizes, at two seeds. A dense
block takes bytes that the others would have to give back, so that a gain counts beside what it costs, which
`capscale describe --policy` says: of two blocks, one dense and one in INT2 take what both take at 9 bits.

Expected, from recipes that leave the last blocks in BF16 (NVIDIA's NVFP4 pretraining, arXiv 2509.25149): dense ends win
at equal formats, more at 2 bits than at 4, and the last block more than the first.
Run: `capscale sweep ends_dense --ladder nano --out runs/ends`, 40 runs; `--sizes nano-16 --seeds 0` are 10.
Not run as a whole yet.
"""

from itertools import product

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.policy import Frozen, Rule
from capscale.representation import DENSE, Representation, operand
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

FORMATS = ("int4", "int3", "int2")


def policies(layers: int) -> list[Frozen]:
    """Dense, and every format in all blocks and in all but dense ones."""
    last = layers - 1
    dense = ["0", str(last), *([f"(0|{last})"] if layers > 2 else [])]
    found: list[Frozen] = [DENSE]
    for name in FORMATS:
        held = Representation(operand(name), hadamard=128)
        found += [held, *((Rule(f"layers/{each}/.*", DENSE), Rule(".*", held)) for each in dense)]
    return found


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every policy at the middle two of the ladder's four sizes and two seeds, those of one program together."""
    grid = Grid(ladder, data)
    return [
        grid.run(size, held, seed=seed)
        for size in grid.two
        for held, seed in product(policies(ladder.sizes[size].layers), SEEDS)
    ]
