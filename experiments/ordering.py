"""The shortest sweep that can fail: four formats of one size, whose losses must rise with the GMSE.

Expected: dense < int4 < int2 < int1 in loss, with gaps far above the noise between seeds.
Run: `capscale sweep ordering --out runs/ordering` (2 CPU cores: about half a minute).
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.train.run import Optimizer, Run

STEPS = 1000

FORMATS = (DENSE, *(Representation(weights=operand(f"int{bits}"), hadamard=128) for bits in (4, 2, 1)))


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Four formats at the ladder's third size."""
    size = list(ladder.sizes)[2]
    model = ladder.model(size, data.vocabulary)
    return [
        Run(
            size=size,
            model=model,
            tokens=STEPS * ladder.batch * model.context,
            data=data,
            optimizer=Optimizer(ladder.learning_rates[size], b2=0.98, decay="linear"),
            batch=ladder.batch,
            ladder=ladder.name,
            representation=representation,
        )
        for representation in FORMATS
    ]
