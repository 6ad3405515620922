"""A run as a value: everything that decides its result, and what follows from it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from capscale.checks import LARGEST_WHOLE, check_choice, check_flag, check_real, check_whole
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.formats.capabilities import draws
from capscale.formats.catalog import label
from capscale.formats.schedule import first_step
from capscale.formats.serialize import to_json
from capscale.models.assigned import Held, assigned, every
from capscale.models.config import ModelConfig
from capscale.models.slices import nested_in
from capscale.policy import Frozen, frozen
from capscale.representation import DENSE, Representation
from capscale.train.code import code_of
from capscale.train.corrections import Correction
from capscale.train.flops import flops_per_token
from capscale.train.memory import Gather, Reduce

NUMERICS = 1
"""Version of what the package computes of a run, part of the ids of all runs from version 2 on.

To be raised by a change after which runs end with other losses, beyond the rounding of another device or version of
XLA, and that no field of a run tells: to initialisation (`models.initial`), the decoders, the loss, formats and
estimators; to the order of batches (`data.batches`, `data.shards`) and the split of a text (`data.corpus`: BLOCK,
HELD_OUT_EVERY, VOCABULARY); to the optimizer's transform and schedule, the leaves that decay, and the key of each
step's noise (`train.step`). Where a field can tell, add one instead, with the present value in `JSON_ADDED`: ids of
unchanged runs stay.
"""


@dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up and decay; the defaults are the paper's.

    Attributes:
      learning_rate: peak rate.
      b1, b2: decay rates of the moments.
      weight_decay: decoupled decay of matrices; norms and learned scales are not decayed.
      clip: maximal global gradient norm.
      warmup: share of the steps spent warming up.
      decay: shape of the decay after warm-up.
      final: rate at the last step, as a share of the peak.
      amsgrad: divide by the largest second moment so far, as Theorem 1 of the paper does (Algorithm 3;
        arXiv 1904.09237).
      eps: added to the root of the second moment; Adam's own default (arXiv 1412.6980).
      correction: pull of compressed weights towards their format (`capscale.train.corrections`); None for none.
      reduce: dtype in which devices send each other the gradients of matrices, each the sum over its own rows in
        float32. By bfloat16 each device's part is rounded, to the nearest, and so are sums of parts as they pass on
        (`capscale.train.sharding.mean_over_devices`); as many devices as there are decide what is rounded.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"eps": 1e-8, "correction": None, "reduce": "float32"}

    learning_rate: float
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    warmup: float = 0.1
    decay: Literal["cosine", "linear"] = "cosine"
    final: float = 0.0
    amsgrad: bool = False
    eps: float = 1e-8
    correction: Correction | None = None
    reduce: Reduce = "float32"

    def __post_init__(self):
        check_real(self, "learning_rate", "clip", "eps", above=0)
        check_real(self, "b1", "b2", "warmup", least=0, below=1)
        check_real(self, "weight_decay", least=0)
        check_real(self, "final", least=0, most=1)
        check_choice(self, "decay", ("cosine", "linear"))
        check_choice(self, "reduce", get_args(Reduce))
        check_flag(self, "amsgrad")
        if not isinstance(self.correction, Correction | None):
            raise UserError(f"Optimizer(correction={self.correction!r}): use Cage(), DeltaDecay(0.1), or None")


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
      size: name of the model size on its ladder.
      model: its shape.
      representation: how its linear layers' operands are stored: one representation for all, or rules by path
        (`capscale.models.assigned`). Rules by which all layers agree are that representation.
      tokens: training tokens asked for; rounded to whole steps in `trained_tokens`.
      data: the text, by name and content hash.
      optimizer: AdamW settings.
      batch: sequences per step.
      seed: of the initialisation, the batch order and any noise.
      ladder: name of the ladder.

    Its id is 16 hexadecimal digits, of a hash of all of these; `steps` and the rest are derived.
    """

    size: str
    model: ModelConfig
    tokens: int
    data: DataId
    optimizer: Optimizer
    batch: int
    ladder: str
    representation: Frozen = field(default=DENSE)
    seed: int = 0

    def __post_init__(self):
        check_whole(self, "batch", least=1)
        check_whole(self, "seed")
        check_real(self, "tokens", above=0)
        if self.steps < 1:
            raise UserError(
                f"tokens={self.tokens} is less than half a step of {self.tokens_per_step} tokens; ask for more"
            )
        if self.steps > LARGEST_WHOLE:
            raise UserError(f"tokens={self.tokens} are {self.steps:,} steps of {self.tokens_per_step}; ask for fewer")
        if self.data.vocabulary > self.model.vocabulary:
            raise UserError(
                f"data {self.data.name!r} has {self.data.vocabulary} symbols, the model only {self.model.vocabulary}"
            )
        held, policy = assigned(self.model, self.representation), frozen(self.representation)
        starts = [] if isinstance(policy, Representation) else [rule.starts for rule in policy if rule.starts]
        for share in starts:
            if not 0 < (first := first_step(share, self.steps)) < self.steps:
                raise UserError(
                    f"a rule starts at {share:g}, which is step {first} of {self.steps}: nothing would be trained "
                    f"{'before' if first == 0 else 'from'} there; choose another share, or more tokens"
                )
        nested = nested_in(held)
        if nested is not None and nested.at is not None:
            raise UserError(
                f"Run(representation={label(nested)}): a slice is read off a run of all widths, "
                f"{label(nested.sliced(nested.widths[0]))}; to train it alone give the others the weight 0, such as "
                "nested-8-4-2-weighted-0-0-1"
            )
        agreed = held if isinstance(held, Representation) and not starts else policy
        object.__setattr__(self, "representation", agreed)
        if self.optimizer.correction is not None:
            self._check_correction(self.optimizer.correction)
        if self.optimizer.reduce != "float32" and draws_together(held):
            raise UserError(
                f"Run(optimizer.reduce={self.optimizer.reduce}): it draws noise for all tokens at once, and XLA adds "
                "up gradients of devices by itself, in float32; use reduce=float32, or formats that draw nothing"
            )

    def _check_correction(self, correction: Correction) -> None:
        formats = [each.weights.format for each in every(self.held) if not each.weights.is_dense]
        if not formats:
            raise UserError(
                f"Run(optimizer.correction={correction}): its weights are dense, and a correction pulls weights to "
                "their format; use correction=None, or compress the weights"
            )
        if drawn := next((each for each in formats if draws(each)), None):
            raise UserError(
                f"Run(optimizer.correction={correction}): {label(drawn)} draws what weights become anew at every step, "
                "which is nothing to pull them to; use correction=None, or a format that rounds to the nearest"
            )
        if nested := nested_in(self.held):
            raise UserError(
                f"Run(optimizer.correction={correction}): {label(nested)} holds its weights in several widths, and a "
                "correction pulls them to one; use correction=None, or one width"
            )
        if (share := correction.largest(self.optimizer.learning_rate)) > 1:
            raise UserError(
                f"Run(optimizer.correction={correction}): at the rate {self.optimizer.learning_rate:g} a step would "
                f"take {share:g} of the error away and move weights past their level; at most 1: lower the strength"
            )

    @property
    def held(self) -> Held:
        """Representations of all weights of the model, by its policy."""
        return assigned(self.model, self.representation)

    @property
    def tokens_per_step(self) -> int:
        """Tokens in a batch."""
        return self.batch * self.model.context

    @property
    def steps(self) -> int:
        """Optimizer steps: `tokens` in whole steps, to the nearest."""
        return round(self.tokens / self.tokens_per_step)

    @property
    def trained_tokens(self) -> int:
        """D of the scaling law."""
        return self.steps * self.tokens_per_step

    @property
    def non_embedding_parameters(self) -> int:
        """N of the scaling law."""
        return self.model.non_embedding_parameters

    @property
    def passes(self) -> int:
        """Forward and backward passes of a step: one for every width of nested weights whose loss counts, else 1."""
        nested = nested_in(self.held)
        return 1 if nested is None else sum(share > 0 for share in nested.shares)

    @property
    def flops(self) -> float:
        """Training FLOPs, `6 N D` a pass (arXiv 2001.08361); attention scores and the head are left out."""
        return 6.0 * self.non_embedding_parameters * self.trained_tokens * self.passes

    @property
    def step_flops(self) -> float:
        """Training FLOPs of a step, all passes, with head and attention (`flops_per_token`)."""
        return flops_per_token(self.model) * self.tokens_per_step * self.passes

    @cached_property
    def run_id(self) -> str:
        """First 16 hex digits of the SHA-256 of what decides the result: equal runs, and only they, share it.

        That is the canonical text of `described`, code of classes from outside the package included.
        """
        return hashlib.sha256(_canonical(described(self)).encode()).hexdigest()[:16]


def draws_together(held: Held) -> bool:
    """Whether noise is drawn for all tokens at once, also of gradients, so that devices do not part."""
    return any(draws(each.activations.format) or each.gradients.rounds_by_chance for each in every(held))


def gathers(held: Held, asked: Gather) -> Gather:
    """When devices that share weights send them: as asked, or by layer where noise is drawn for all tokens at once."""
    return "layer" if draws_together(held) else asked


def described(run: Run) -> dict[str, Any]:
    """A run as JSON, with all that decides its result.

    Beyond its values that is `numerics`, the package's version of them, from 2 on; and `code`, where classes of the run
    are not the package's own: what the code behind each hashes to, by the path of the value. See `capscale.train.code`.

    Raises `UserError` for values that cannot be written, and for code that cannot be read.
    """
    code = code_of(run)
    extra = ({"code": code} if code else {}) | ({"numerics": NUMERICS} if NUMERICS > 1 else {})
    return to_json(run) | extra


def canonical_json(value: Any) -> str:
    """Canonical JSON text: sorted keys, no spaces, shortest float repr; the same on every machine and Python."""
    return _canonical(to_json(value))


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
