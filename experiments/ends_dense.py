"""First and last blocks dense against all blocks alike, at equal formats and at equal bytes.

INT4, INT3 and INT2 weights under a Hadamard rotation in every block; in every block but the first, or but the last;
and, of models with three blocks or more, in all but both. With dense models of the same sizes, at two seeds. A dense
block takes bytes that the others would have to give back, so that a gain counts beside what it costs, which
`capscale describe --policy` says: of two blocks, one dense and one in INT2 take what both take at 9 bits.

Statements, from recipes that leave the last blocks in BF16 (NVIDIA's NVFP4 pretraining, arXiv 2509.25149), judged by
differences of losses at equal size and seed (`capscale.analysis.contrasts`): dense ends win at equal formats, more at 2
bits than at 4, and the last block more than the first; but 4 bits throughout are better than 2 with a dense end, which
on the nano ladder take over twice the bytes.

Run: `capscale sweep ends_dense --ladder nano --out runs/ends`, 40 runs; then
`python scripts/judge_experiment.py ends_dense experiments/results/ends_dense.csv`. Rows and verdicts:
experiments/results/README.md.
"""

from itertools import product

from capscale.analysis.claims import Estimate, above_zero
from capscale.analysis.contrasts import Contrast, between, combined, estimates_by_name, mean_of
from capscale.analysis.evidence import Evidence
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder, find_size
from capscale.policy import Frozen, Rule
from capscale.representation import DENSE, Representation, operand
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

FORMATS = ("int4", "int3", "int2")


STATEMENTS = (
    above_zero(
        "ends-win",
        "A dense end wins at equal formats.",
        "arXiv 2509.25149, section 4",
        "loss with all blocks compressed less that with the first or the last dense, mean over formats and ends",
        paper=0.05,
        deviation=0.006,
    ),
    above_zero(
        "more-at-2",
        "A dense end wins more at 2 bits than at 4.",
        "no paper's: an end can give back at most what its format costs",
        "that gain of int2 less that of int4, mean over the ends",
        paper=0.05,
        deviation=0.01,
    ),
    above_zero(
        "last-above-first",
        "The last block is worth more dense than the first.",
        "arXiv 2509.25149, section 4, which leaves more of the last blocks in BF16",
        "loss with the first block dense less that with the last dense, mean over the formats",
        paper=0.02,
        deviation=0.007,
    ),
    above_zero(
        "not-worth-their-bytes",
        "4 bits throughout are better than 2 bits with a dense end.",
        "no paper's: of two blocks, one dense and one in INT2 take what both take at 9 bits",
        "loss with int2 and one end dense less that with int4 throughout, mean over the ends",
        paper=0.05,
        deviation=0.008,
    ),
)


def ends(name: str, layers: int) -> dict[str, Frozen]:
    """A format in all blocks but the first, or but the last; of three layers or more also in all but both."""
    last = layers - 1
    dense = {"first": "0", "last": str(last)} | ({"both": f"(0|{last})"} if layers > 2 else {})
    held = throughout(name)
    return {end: (Rule(f"layers/{each}/.*", DENSE), Rule(".*", held)) for end, each in dense.items()}


def throughout(name: str) -> Representation:
    """A format in all blocks."""
    return Representation(operand(name), hadamard=128)


def policies(layers: int) -> list[Frozen]:
    """Dense, and every format in all blocks and in all but dense ones."""
    return [DENSE, *(each for name in FORMATS for each in (throughout(name), *ends(name, layers).values()))]


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every policy at the middle two of the ladder's four sizes and two seeds, those of one program together."""
    grid = Grid(ladder, data)
    return [
        grid.run(size, held, seed=seed)
        for size in grid.two
        for held, seed in product(policies(ladder.sizes[size].layers), SEEDS)
    ]


def contrasts(layers: int) -> dict[str, Contrast]:
    """Contrast of every statement, of models with so many layers."""
    sides = {name: ends(name, layers) for name in FORMATS}
    gains = {
        name: mean_of(between(throughout(name), sides[name][end]) for end in ("first", "last")) for name in FORMATS
    }
    return {
        "ends-win": mean_of(gains.values()),
        "more-at-2": combined([(gains["int2"], 1.0), (gains["int4"], -1.0)]),
        "last-above-first": mean_of(between(sides[name]["first"], sides[name]["last"]) for name in FORMATS),
        "not-worth-their-bytes": mean_of(between(sides["int2"][end], throughout("int4")) for end in ("first", "last")),
    }


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """The contrasts of these rows, of models that all have one number of layers: rules name the last by its number.

    Raises:
      UserError: models of several numbers of layers.
    """
    depths = sorted({find_size(str(record["model"])).layers for record in evidence.records})
    if len(depths) > 1:
        raise UserError(f"{evidence.source}: models of {depths} layers; choose rows of one number of layers")
    return estimates_by_name(evidence, contrasts(*(depths or [2])))
