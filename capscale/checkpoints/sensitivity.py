"""Rises of a decoder's loss as its matrices are rounded one at a time, and the loss of any mixture of formats."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from capscale.checkpoints.evaluation import WindowLosses
from capscale.checkpoints.post_training import CLEAR
from capscale.checkpoints.source import Source
from capscale.data.source import Source as Text
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import moves
from capscale.formats.catalog import label
from capscale.formats.storage import Storable, storage_bits
from capscale.models.projected import kernels_of, path_name
from capscale.operands import Operand
from capscale.representation import Representation


class Matrix(NamedTuple):
    """One matrix of a decoder: the path of its kernel, and the layer of the stack."""

    path: str
    layer: int


class Rise(NamedTuple):
    """One matrix in one format, all others as they were trained.

    Attributes:
      error: `||held - masters||^2`, absolute.
      rise, rise_se: of the loss on the calibration windows, in nats per token, and its standard error.
    """

    error: float
    rise: float
    rise_se: float


class Sensitivity(NamedTuple):
    """Rises of one matrix in every format, and the losses that are expected of them.

    Attributes:
      matrix: which one.
      values: how many it has.
      energy: `||masters||^2`.
      bits: per value in each format, scales included.
      rises: as measured.
      slope: rise per squared error, of the finest format whose rise is clear; of all together where none is.
      clear: whether one is.
      expected: of each format; the measured rise where it is beyond `CLEAR` standard errors, `slope` times its error
        where it is not.
    """

    matrix: Matrix
    values: int
    energy: float
    bits: tuple[float, ...]
    rises: tuple[Rise, ...]
    slope: float
    clear: bool
    expected: tuple[float, ...]


class Mixtures:
    """A decoder whose matrices may each be in a format of their own; holds its weights in all of the formats."""

    def __init__(self, source: Source, formats: Sequence[Format], hadamard: int | None):
        """Projects every matrix to every format.

        Raises:
          UserError: a run that was trained in a format, formats that training moves, that cannot hold these weights, or
            that do not say what a tensor takes.
        """
        if not (weights := source.one_format("`capscale allocate`, which starts from dense weights,").weights).is_dense:
            own = label(weights.format)
            raise UserError(
                f"{source.path} was trained in {own}: its layers would be rounded twice; give a run with dense weights"
            )
        for format in formats:
            if moves(format):
                raise UserError(
                    f"{label(format)} is learned in training, or moves with it; give formats that only round"
                )
            if not isinstance(format, Storable):
                raise UserError(f"{label(format)} does not say how it is stored; give formats that take bits")
        self.formats, self.params = tuple(formats), source.params
        self.masters = kernels_of(source.params)
        self.matrices = [Matrix(path, layer) for path, kernel in self.masters.items() for layer in _layers(kernel)]
        self.held: list[dict[str, Any]] = []
        for format in formats:
            try:
                held = source._replace(weights=Representation(Operand(format), hadamard=hadamard), state=None).held()
            except UserError as error:
                raise UserError(f"{label(format)} cannot hold the weights of {source.path}: {error}") from error
            self.held.append(kernels_of(held))

    def of(self, choices: Sequence[int | None]) -> Any:
        """Parameters with every matrix in the format of this index, None for as it was trained."""
        mixed = dict(self.masters)
        for matrix, choice in zip(self.matrices, choices, strict=True):
            if choice is not None:
                held, layer = self.held[choice][matrix.path], matrix.layer
                whole = mixed[matrix.path]
                mixed[matrix.path] = whole.at[layer].set(held[layer]) if whole.ndim > 2 else held
        return jax.tree_util.tree_map_with_path(lambda path, leaf: mixed.get(path_name(path), leaf), self.params)

    def one(self, place: int, choice: int) -> Any:
        """Parameters with one matrix in a format, the others as they were trained."""
        return self.of([choice if at == place else None for at in range(len(self.matrices))])

    def weights(self, place: int) -> np.ndarray:
        """Master weights of one matrix, float64."""
        return _layer(self.masters[self.matrices[place].path], self.matrices[place].layer)

    def error(self, place: int, choice: int) -> float:
        """Squared error of one matrix in a format."""
        matrix = self.matrices[place]
        return float(np.square(_layer(self.held[choice][matrix.path], matrix.layer) - self.weights(place)).sum())

    def bits(self, place: int, choice: int) -> float:
        """Bits per value of one matrix in a format, as its rows are stored."""
        (inputs, outputs), format = self.masters[self.matrices[place].path].shape[-2:], self.formats[choice]
        assert isinstance(format, Storable)  # as __init__ has seen
        return storage_bits(format, (outputs, inputs))


def calibration_windows(text: Text, context: int, count: int) -> np.ndarray:
    """Windows of the text that is trained on `(count, context + 1)`, none of those held out."""
    return text.batches(context, count, seed=0, first_step=0, steps=1)[0]


def sensitivities(mixtures: Mixtures, losses: WindowLosses) -> Iterator[Sensitivity]:
    """Every matrix rounded by itself to every format, and the loss of that on the windows of `losses`."""
    trained = losses(mixtures.params)
    for place, matrix in enumerate(mixtures.matrices):
        told = []
        for choice in range(len(mixtures.formats)):
            apart = losses(mixtures.one(place, choice)) - trained
            error = float(apart.std(ddof=1) / np.sqrt(len(apart)))
            told.append(Rise(mixtures.error(place, choice), float(apart.mean()), error))
        slope, clear = slope_of(told)
        expected = tuple(r.rise if r.rise > CLEAR * r.rise_se else slope * r.error for r in told)
        bits = tuple(mixtures.bits(place, choice) for choice in range(len(mixtures.formats)))
        w = mixtures.weights(place)
        yield Sensitivity(matrix, w.size, float(np.square(w).sum()), bits, tuple(told), slope, clear, expected)


def slope_of(rises: Sequence[Rise]) -> tuple[float, bool]:
    """Rise per squared error where errors are small, and whether any rise is clear.

    That of the smallest error whose rise is clear, as loss is in proportion to it in first order only. Without one, the
    sum of rises over that of errors, no less than 0.
    """
    clear = [r for r in rises if r.error > 0 and r.rise > CLEAR * r.rise_se]
    if clear:
        finest = min(clear, key=lambda r: r.error)
        return finest.rise / finest.error, True
    total = sum(r.error for r in rises)
    return (max(sum(r.rise for r in rises) / total, 0.0) if total > 0 else 0.0), False


def _layers(kernel: Any) -> range:
    if kernel.ndim > 3:
        raise UserError(f"a kernel of shape {kernel.shape} has several stacked axes; allocation knows one")
    return range(kernel.shape[0] if kernel.ndim == 3 else 1)


def _layer(kernel: Any, layer: int) -> np.ndarray:
    return np.asarray(kernel[layer] if kernel.ndim > 2 else kernel, np.float64)
