"""Loss of a trained decoder before and after its weights, or attention's cache, are rounded, without training on.

Post-training loss rises about in proportion to the error that a format makes on the weights (Kumar et al., arXiv
2411.04330; QiD, arXiv 2411.17691), where training in the format learns to live with it: capacities say nothing here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from capscale.checkpoints.evaluation import WindowLosses, check_text
from capscale.checkpoints.rounding import Asked
from capscale.checkpoints.source import Source
from capscale.data.source import Source as Text
from capscale.errors import UserError
from capscale.formats.catalog import label
from capscale.models.assigned import TABLES, table_of
from capscale.models.mixture import mixture_of_held, of_format
from capscale.models.projected import kernels_of
from capscale.policy_names import policy_name
from capscale.representation import Representation
from capscale.train.record import loss_with_error


class Tensor(NamedTuple):
    """One weight matrix: its path, its layer, excess of its fourth moment over that of a normal law, and its error."""

    path: str
    layer: int
    excess_kurtosis: float
    error: float


class Rounded(NamedTuple):
    """A decoder with its weights in one format, or under a policy.

    Attributes:
      weights: the format's name; "mixed" under a policy by which layers differ.
      bits: per value; under a policy, the mean over the weights of linear layers, dense ones at 16.
      gmse: its error on Gaussian data; the mean likewise.
      error: `||held - masters||^2 / ||masters||^2` over all weights of linear layers.
      loss, loss_se: in nats per token on the held-out text, and its standard error.
      rise, rise_se: of the loss over that of the weights as they were trained. The text is the same, so that its error
        is that of the differences, and far below `loss_se`.
      tensors: every matrix by itself, embedding and head too where a policy compresses them.
      activations, cache: names of the formats that linear layers' inputs, and attention's keys and values, are held in.
      policy: its text; empty without one.
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
    activations: str = "dense"
    cache: str = "dense"
    policy: str = ""


class Refused(NamedTuple):
    """A format that cannot hold these weights, and why, such as groups that do not divide a row."""

    weights: str
    reason: str


def rounded(source: Source, asked: Asked, text: Text) -> Iterator[Rounded | Refused]:
    """The decoder as it was trained, and as it is asked, evaluated on all held-out windows.

    Activations and cache stay as the run has them unless they are asked otherwise. Embedding and head are left as they
    are unless a policy names them, and so are norms, as in training.

    Args:
      source: a run, or a checkpoint of Hugging Face.
      asked: what to round to.
      text: with the windows; that which a run was trained on.

    Raises:
      UserError: another text than the run's, symbols that the model has not, or a format that has to be trained.
    """
    check_text(source, text)
    others = list(asked.of(source))
    windows, blocks = text.validation(source.model.context)
    masters = kernels_of(source.params) | {name: source.params[name] for name in TABLES if name in source.params}
    trained = None
    for name, one in [("", source), *others]:
        try:
            held = one.held()
        except UserError as error:
            yield Refused(name, str(error))
            continue
        losses = WindowLosses(one, windows)(held)
        trained = losses if trained is None else trained
        loss, loss_se = loss_with_error(losses, blocks)
        rise, rise_se = loss_with_error(losses - trained, blocks)
        kernels = kernels_of(held)
        wrong = sum(_energy(np.asarray(w) - masters[path]) for path, w in kernels.items())
        error = wrong / sum(_energy(masters[path]) for path in kernels)
        tables = {name: held[name] for name in TABLES if not table_of(one.weights, name).weights.is_dense}
        tensors = tuple(_tensors(masters, kernels | tables))
        names = one.activations_name, one.cache_name, policy_name(one.policy) if one.policy else ""
        yield Rounded(*_weights(one), error, loss, loss_se, rise, rise_se, tensors, *names)


def _weights(source: Source) -> tuple[str, float, float]:
    """Name, bits and GMSE of the weights."""
    if isinstance(source.weights, Representation):
        format = source.weights.weights.format
        error, bits = of_format(source.model, format)
        return label(format), bits, error
    mixture = mixture_of_held(source.model, source.weights)
    return mixture.weights, mixture.weights_bits, mixture.weights_gmse


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
    """How near the rises of several formats are to one multiple of their GMSE; None of fewer than two clear ones.

    Args:
      rows: the decoder as it was trained, then rounded; of these, the ones whose weights alone are, each to one format.
    """
    first = rows[0]
    alone = [
        row for row in rows[1:] if (row.activations, row.cache, row.policy) == (first.activations, first.cache, "")
    ]
    told = {row.weights: row.rise / row.gmse for row in alone if row.gmse > 0 and row.rise > CLEAR * row.rise_se}
    if len(told) < 2:
        return None
    slope = float(np.exp(np.mean(np.log(list(told.values())))))
    factors = {name: max(ratio / slope, slope / ratio) for name, ratio in told.items()}
    farthest = max(factors, key=lambda name: factors[name])
    return Proportion(slope, factors[farthest], farthest, len(told))


def _energy(w: Any) -> float:
    return float(np.square(np.asarray(w, np.float64)).sum())


def _tensors(masters: Mapping[str, Any], held: Mapping[str, Any]) -> Iterator[Tensor]:
    for path, value in held.items():
        layers = np.asarray(masters[path], np.float64).reshape(-1, *value.shape[-2:])
        for layer, (w, h) in enumerate(zip(layers, np.asarray(value, np.float64).reshape(layers.shape), strict=True)):
            square = np.square(w - w.mean())
            spread = square.mean() ** 2
            kurtosis = float(np.square(square).mean() / spread - 3) if spread > 0 else float("nan")
            energy = _energy(w)
            yield Tensor(path, layer, kurtosis, _energy(h - w) / energy if energy > 0 else float("nan"))
