"""Loss of a trained decoder on the text that was held out, as the run holds its weights and activations."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array

from capscale.artifacts import check_result
from capscale.checkpoints.source import Source
from capscale.data.source import Source as Text
from capscale.errors import UserError
from capscale.files import read_json
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.capabilities import draws
from capscale.models.assigned import Held, every, mapped
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.layers import NOISE
from capscale.models.loss import tokens_at_once
from capscale.models.slices import at_width, nested_in, sliced
from capscale.representation import DENSE
from capscale.train.compiled import PROGRAMS_HELD
from capscale.train.record import loss_with_error

RESULT = "result.json"
ROUNDING = 1e-4
"""Nats by which two evaluations of one checkpoint may differ: devices and versions of XLA add in other orders."""


class Evaluated(NamedTuple):
    """The loss of a checkpoint, beside the one in result.json.

    Attributes:
      weights, activations, cache: names of their formats; under a policy, its text in place of the weights'.
      step: of the checkpoint; None for one of Hugging Face.
      loss, loss_se: in nats per token on the held-out text, and its standard error.
      bits_per_byte: the same loss.
      windows: how many stretches of a context's length it is the mean of.
      said: the loss of result.json; None without one, of a run that diverged, and at a step before the last.
    """

    weights: str
    activations: str
    cache: str
    step: int | None
    loss: float
    loss_se: float
    bits_per_byte: float
    windows: int
    said: float | None

    @property
    def difference(self) -> float | None:
        """Loss found less the one that result.json says."""
        return None if self.said is None else self.loss - self.said

    @property
    def agrees(self) -> bool:
        """Whether the two differ by no more than rounding; true where there is nothing to compare."""
        return self.said is None or abs(self.loss - self.said) <= ROUNDING


def widths(source: Source, text: Text, width: int | None = None) -> list[Evaluated]:
    """The loss of a run's checkpoint; of nested weights that of every width, the widest first, or of `width` alone.

    Raises:
      UserError: a width that the weights have not, and what `evaluated` raises.
    """
    nested = nested_in(source.weights)
    known = () if nested is None else nested.widths
    if width is not None and width not in known:
        have = (
            f"has the widths {', '.join(map(str, known))}" if known else "has weights of one width; leave --width out"
        )
        raise UserError(f"--width {width}: {source.path} {have}")
    if not known:
        return [evaluated(source, text)]
    return [_at(source, text, number, bits) for number, bits in enumerate(known) if width in (None, bits)]


def _at(source: Source, text: Text, number: int, bits: int) -> Evaluated:
    policy = at_width(source.policy, bits) if source.policy else ()
    assert isinstance(policy, tuple)
    held = mapped(source.weights, partial(sliced, bits=bits))
    return evaluated(source._replace(weights=held, policy=policy), text, number)


def evaluated(source: Source, text: Text, number: int = 0) -> Evaluated:
    """The loss of a run's checkpoint on all held-out windows, with its formats as at the end of training.

    `number`: of the row in result.json that it is held against, those of narrower slices coming behind the run's.

    Raises:
      UserError: another text than the run's, a loss that is not finite, or a result.json of another run.
    """
    check_text(source, text)
    windows, blocks = text.validation(source.model.context)
    said = _said(source, number)
    loss, loss_se = loss_with_error(WindowLosses(source, windows)(source.held()), blocks)
    in_bits = loss / np.log(2) / text.bytes_per_symbol
    names = source.weights_name, source.activations_name, source.cache_name
    return Evaluated(*names, source.step, loss, loss_se, float(in_bits), len(windows), said)


def _said(source: Source, number: int) -> float | None:
    path = epath.Path(source.path / RESULT)
    if source.run_id is None or not path.exists():
        return None
    remedy = "remove it and start the sweep again to train this run once more"
    found = read_json(path, remedy)
    check_result(path, found, source.run_id, remedy)
    row = [found["row"], *found.get("slices", [])][number]
    return row.get("loss") if row.get("steps") == source.step else None


def check_text(source: Source, text: Text) -> None:
    """Raises `UserError` unless the text is the one that a run was trained on, and the model has all its symbols."""
    if source.data is not None and text.id != source.data:
        raise UserError(
            f"{source.path} was trained on {source.data.name} (sha256 {source.data.sha256[:12]}), and this text is "
            f"{text.id.name} ({text.id.sha256[:12]}); name the run's by --text"
        )
    if text.id.vocabulary > source.model.vocabulary:
        raise UserError(
            f"the text has {text.id.vocabulary} symbols, and {source.path} knows {source.model.vocabulary}; "
            "give shards of its own tokenizer by --text"
        )


class WindowLosses:
    """Mean loss of every window (W,), of any weights in the basis of their masters, by one compiled program."""

    def __init__(self, source: Source, windows: np.ndarray):
        # Weights come in the basis of their masters, so that a rotation is of the activations alone, forth and back.
        self.count, batch = len(windows), min(source.batch, len(windows))
        padded = np.pad(windows, ((0, -self.count % batch), (0, 0)))
        self.windows_SBU = padded.reshape(-1, batch, windows.shape[1])
        self.of_windows = _of_windows(source.model, source.inputs, batch)
        self.ctx = NO_CONTEXT if source.inputs == DENSE else source.context

    def __call__(self, params: Any) -> np.ndarray:
        """The losses with these weights; raises `UserError` where one is not finite."""
        losses = np.asarray(self.of_windows(params, self.windows_SBU, self.ctx), np.float64).ravel()[: self.count]
        if not np.isfinite(losses).all():
            raise UserError("the loss is not finite with these weights; the run has diverged, or the file is damaged")
        return losses


@lru_cache(PROGRAMS_HELD)
def _of_windows(model: ModelConfig, inputs: Held, batch: int) -> Callable[[Any, np.ndarray, Context], Array]:
    """The program that runs of one shape share."""
    module, at_once = Decoder(model, inputs), tokens_at_once(batch, model.context, model.vocabulary)
    drawn = any(
        draws(getattr(each, side).format) for each in every(inputs) for side in ("activations", "keys", "values")
    )

    def of_windows(params: Any, windows_SBU: Array, ctx: Context) -> Array:
        def of_batch(window_BU: Array) -> Array:
            tokens_BU = window_BU.astype(jnp.int32)
            rngs = {NOISE: ctx.key} if drawn and ctx.key is not None else None
            found = module.apply({"params": params}, tokens_BU, ctx, at_once, rngs=rngs, method="losses")
            return jnp.mean(jnp.asarray(found), axis=-1)

        return jax.lax.map(of_batch, windows_SBU)

    return jax.jit(of_windows)
