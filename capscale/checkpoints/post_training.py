"""Loss of a trained decoder before and after its weights are rounded, without training on.

Post-training loss rises about in proportion to the error that a format makes on the weights (Kumar et al., arXiv
2411.04330; QiD, arXiv 2411.17691), where training in the format learns to live with it: capacities say nothing here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from capscale.checkpoints.evaluation import WindowLosses, check_text
from capscale.checkpoints.source import Source
from capscale.data.source import Source as Text
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import Stateful, learns
from capscale.formats.catalog import label
from capscale.gaussian_mse import gmse
from capscale.models.projected import kernels_of
from capscale.operands import Operand
from capscale.representation import Representation
from capscale.train.record import loss_with_error


class Tensor(NamedTuple):
    """One weight matrix: its path, its layer, excess of its fourth moment over that of a normal law, and its error."""

    path: str
    layer: int
    excess_kurtosis: float
    error: float


class Rounded(NamedTuple):
    """A decoder with its weights in one format.

    Attributes:
      weights: the format's name.
      bits: per value.
      gmse: its error on Gaussian data.
      error: `||held - masters||^2 / ||masters||^2` over all weights.
      loss, loss_se: in nats per token on the held-out text, and its standard error.
      rise, rise_se: of the loss over that of the weights as they were trained. The text is the same, so that its error
        is that of the differences, and far below `loss_se`.
      tensors: every matrix by itself.
    """

    weights: str
    bits: float
    gmse: float
    error: float
    loss: float
    loss_se: float
    rise: float
    rise_se: float
    tensors: tuple[Tensor, ...]


class Refused(NamedTuple):
    """A format that cannot hold these weights, and why, such as groups that do not divide a row."""

    weights: str
    reason: str


def rounded(
    source: Source, formats: Sequence[Format], text: Text, hadamard: int | None = None
) -> Iterator[Rounded | Refused]:
    """The decoder as it was trained, and with its master weights in each format, evaluated on all held-out windows.

    Activations stay as the run has them. Embedding, head and norms are left as they are, as in training.

    Args:
      source: a run, or a checkpoint of Hugging Face.
      formats: what to round to.
      text: with the windows; that which a run was trained on.
      hadamard: largest block that the inputs are rotated in first.

    Raises:
      UserError: another text than the run's, symbols that the model has not, or a format that has to be trained.
    """
    check_text(source, text)
    for format in formats:
        if learns(format) or isinstance(format, Stateful):
            raise UserError(f"{label(format)} is learned in training, or moves with it; give a format that only rounds")
    own = source.one_format("`capscale quantize`, which rounds to one,")
    if source.compressed_activations and hadamard is not None and hadamard != own.hadamard:
        raise UserError(f"the activations of this run are rotated in blocks of {own.hadamard}; leave --hadamard out")
    windows, blocks = text.validation(source.model.context)
    losses_of = WindowLosses(source, windows)
    masters = kernels_of(source.params)
    trained = losses_of(source.held())
    for weights, held in _held(source, formats, hadamard):
        if isinstance(held, str):
            yield Refused(label(weights.format), held)
            continue
        losses = losses_of(held)
        loss, loss_se = loss_with_error(losses, blocks)
        rise, rise_se = loss_with_error(losses - trained, blocks)
        tensors = tuple(_tensors(masters, kernels_of(held)))
        wrong = sum(_energy(np.asarray(w) - masters[path]) for path, w in kernels_of(held).items())
        error = wrong / sum(_energy(w) for w in masters.values())
        known = gmse(weights.format).value
        yield Rounded(label(weights.format), weights.format.bits, known, error, loss, loss_se, rise, rise_se, tensors)


class Proportion(NamedTuple):
    """Rises of one run as a multiple of GMSE, which first order says they are where errors are small.

    Attributes:
      slope: geometric mean of rise over GMSE, in nats.
      factor: largest ratio of a format's own to that, either way.
      farthest: the format that has it.
      formats: how many rises are beyond `CLEAR` standard errors, which count.
    """

    slope: float
    factor: float
    farthest: str
    formats: int


CLEAR = 3.0
"""Standard errors from which a rise is one."""


def proportion(rows: Sequence[Rounded]) -> Proportion | None:
    """How near the rises of several formats are to one multiple of their GMSE; None of fewer than two clear ones."""
    told = {row.weights: row.rise / row.gmse for row in rows if row.gmse > 0 and row.rise > CLEAR * row.rise_se}
    if len(told) < 2:
        return None
    slope = float(np.exp(np.mean(np.log(list(told.values())))))
    factors = {name: max(ratio / slope, slope / ratio) for name, ratio in told.items()}
    farthest = max(factors, key=lambda name: factors[name])
    return Proportion(slope, factors[farthest], farthest, len(told))


def _held(source: Source, formats: Sequence[Format], hadamard: int | None) -> Iterator[tuple[Operand, Any]]:
    """The operand and values of the weights as they were trained, and in each format, or why it cannot hold them."""
    yield source.one_format("rounding").weights, source.held()
    for format in formats:
        weights = Operand(format)
        try:
            held = source._replace(weights=Representation(weights, hadamard=hadamard), state=None).held()
        except UserError as error:
            held = str(error)
        yield weights, held


def _energy(w: Any) -> float:
    return float(np.square(np.asarray(w, np.float64)).sum())


def _tensors(masters: Mapping[str, Any], held: Mapping[str, Any]) -> Iterator[Tensor]:
    for path, kernel in masters.items():
        layers = np.asarray(kernel, np.float64).reshape(-1, *kernel.shape[-2:])
        for layer, (w, h) in enumerate(
            zip(layers, np.asarray(held[path], np.float64).reshape(layers.shape), strict=True)
        ):
            square = np.square(w - w.mean())
            spread = square.mean() ** 2
            kurtosis = float(np.square(square).mean() / spread - 3) if spread > 0 else float("nan")
            energy = _energy(w)
            yield Tensor(path, layer, kurtosis, _energy(h - w) / energy if energy > 0 else float("nan"))
