"""Capacity of compressed formats on models of 16 thousand to 210 thousand parameters, byte by byte on real text.

Figure 1 of arXiv 2506.01863 between the demo's scale and the paper's: eight weight-only formats of every kind at four
sizes and one token budget, trained as their authors do, with the paper's baseline for sparsity (`fw`) beside its method
(`b-rms`); a smaller dense model to measure weak formats against, and dense models on a half and a quarter of the text,
without which the law's data term is not identified. The last format, four-bit weights and activations, is there to be
compared with what four-bit weights alone are worth.

Run: `capscale sweep micro_capacity --ladder micro --text books.txt --out runs/micro` (4 MB of text or more; one to two
and a half minutes a run on a CPU core with AVX-512). Rows and fit of one such sweep: experiments/results/.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.train.run import Optimizer, Run

STEPS = 600
BATCH = 16
RATE = 0.4
"""Learning rate times width: the ladder's rates are for longer runs. Chosen on dense models alone; half of it ends
higher at 600 steps."""
ROTATED = ("int8 [trust]", "int4 [trust]", "int2 [trust]", "int1 [clip 1.3]", "higgs-d2-n16 [hypersphere 1.6]")
PLAIN = ("top50 [b-rms 0.1]", "2:4 [b-rms 0.1]", "top50 [fw]", "2:4+int4-dense-scales [trust]")

FORMATS: tuple[Representation, ...] = (
    DENSE,
    *(Representation(weights=operand(name), hadamard=128) for name in ROTATED),
    *(Representation(weights=operand(name)) for name in PLAIN),
    Representation(operand("int4"), operand("int4", per_token=True), hadamard=128),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every format at four sizes of the ladder; dense also at its smallest, and on less text at the four."""
    sizes = sorted(ladder.sizes, key=lambda size: ladder.sizes[size].non_embedding_parameters)
    anchor, compressed = sizes[0], sizes[4:0:-1]

    def run(size: str, representation: Representation, steps: int) -> Run:
        model = ladder.model(size, data.vocabulary)
        return Run(
            size=size,
            model=model,
            tokens=steps * BATCH * model.context,
            data=data,
            optimizer=Optimizer(RATE / model.width),
            batch=BATCH,
            ladder=ladder.name,
            representation=representation,
        )

    grid = [run(size, representation, STEPS) for representation in FORMATS for size in compressed]
    grid += [run(anchor, DENSE, STEPS)]
    grid += [run(size, DENSE, STEPS // share) for share in (2, 4) for size in compressed]
    return grid
