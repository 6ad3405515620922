"""Laws of rises on rows that they have not seen: longer trainings, larger models, other kinds of formats."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from capscale.analysis.rises.fit import RiseFit, fit_rises
from capscale.analysis.rises.forms import FORMS, Form
from capscale.analysis.rises.table import Rises
from capscale.analysis.uncertainty import Interval
from capscale.errors import UserError

CLEAR = 3.0
"""Errors above zero from which a rise has a logarithm that says something."""
RESAMPLES = 1000


class Held(NamedTuple):
    """One law on held-out rows.

    Attributes:
      form: the law.
      miss: ln of measured over predicted rise, a row of `Trial.rows` each (M,).
      worse: mean square of it less that of the best law, with a 95 % interval by cells and formats; 0 of the best.
    """

    form: Form
    miss: np.ndarray
    worse: Interval

    @property
    def factor(self) -> float:
        """Factor by which the law misses, typically: exp of the root mean square."""
        return float(np.exp(np.sqrt(np.mean(self.miss**2))))

    @property
    def told(self) -> bool:
        """Whether the table tells it from the best."""
        return self.worse.low > 0


class Trial(NamedTuple):
    """Laws held against one another on the same rows.

    Attributes:
      about: which formats the rows are of, in words.
      rows: how many rows were predicted, those that lie beyond their errors, over all folds.
      folds: what was left out, in words.
      laws: best first.
    """

    about: str
    rows: int
    folds: tuple[str, ...]
    laws: tuple[Held, ...]


def trials(rises: Rises) -> tuple[Trial, ...]:
    """All laws on the quantized formats, and those that are not about bits on all formats."""
    found = []
    quantized = rises.only(rises.quantized)
    if len(quantized.rise):
        found.append(trial(quantized, FORMS, "quantized formats"))
    if not rises.quantized.all():
        found.append(trial(rises, [form for form in FORMS if not form.of_bits], "all formats"))
    return tuple(each for each in found if each is not None)


def trial(rises: Rises, forms: Sequence[Form], about: str, seed: int = 0) -> Trial | None:
    """Laws on what each fold leaves out; None where no law can be fitted to what any leaves."""
    misses: dict[str, list[np.ndarray]] = {form.name: [] for form in forms}
    cells, formats, told = [], [], []
    for words, test in folds(rises):
        try:
            fits = [fit_rises(form, rises.only(~test), resamples=2) for form in forms]
        except UserError:
            continue
        rows = rises.only(test & is_clear(rises, fits[0].noise))
        if not len(rows.rise):
            continue
        told.append(words)
        for form, fit in zip(forms, fits, strict=True):
            misses[form.name].append(np.log(rows.rise) - fit.log_rise(rows)[0])
        cells.append(rises.cell[test & is_clear(rises, fits[0].noise)])
        formats.append(rises.format[test & is_clear(rises, fits[0].noise)])
    if not told:
        return None
    miss = {name: np.concatenate(each) for name, each in misses.items()}
    order = sorted(forms, key=lambda form: float(np.mean(miss[form.name] ** 2)))
    weigh = _weights(np.concatenate(cells), np.concatenate(formats), seed)
    best = miss[order[0].name] ** 2
    laws = [Held(form, miss[form.name], _interval(miss[form.name] ** 2 - best, weigh)) for form in order]
    return Trial(about, len(best), tuple(told), tuple(laws))


def is_clear(rises: Rises, noise: float) -> np.ndarray:
    """Rises that lie beyond the errors of their text and rounding (R,)."""
    return rises.rise > CLEAR * np.sqrt(rises.rise_se**2 + noise**2 * rises.gmse)


def folds(rises: Rises) -> Iterator[tuple[str, np.ndarray]]:
    """Words for what is left out, and which rows (R,): the longest trainings, the largest models, kind by kind."""
    for axis, words in (("D", "the longest trainings"), ("N", "the largest models")):
        values = getattr(rises, axis)
        if len(np.unique(values)) > 2:
            yield words, values == values.max()
    kinds = np.array(rises.kind)
    if len(set(rises.kind)) > 1:
        for kind in sorted(set(rises.kind)):
            yield f"{kind} formats", kinds == kind
    else:
        for name in sorted(set(rises.weights)):
            yield name, np.array(rises.weights) == name


def _weights(cells: np.ndarray, formats: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Means of values (M,) over resamples of cells and formats (S,)."""
    random = np.random.default_rng([seed, 2])
    weight = np.ones((RESAMPLES, len(cells)))
    for each in (cells, formats):
        _, group = np.unique(each, return_inverse=True)
        weight *= random.exponential(size=(RESAMPLES, int(group.max()) + 1))[:, group]
    weight /= weight.sum(axis=1, keepdims=True)
    return lambda values: weight @ values


def _interval(worse: np.ndarray, mean_of: Callable[[np.ndarray], np.ndarray]) -> Interval:
    low, high = np.quantile(mean_of(worse), [0.025, 0.975])
    return Interval(float(worse.mean()), float(low), float(high))


def slopes_by_kind(fit: RiseFit) -> dict[str, np.ndarray]:
    """ln of every kind's slope over the law's, by its clear rises: the estimate, then resamples (1 + S,)."""
    clear = is_clear(fit.rises, fit.noise)
    rows = fit.rises.only(clear)
    miss = np.log(rows.rise) - fit.log_rise(rows)[0]
    found = {}
    for kind in sorted(set(rows.kind)):
        mine = np.array(rows.kind) == kind
        mean_of = _weights(rows.cell[mine], rows.format[mine], 0)
        found[kind] = np.append(miss[mine].mean(), mean_of(miss[mine]))
    return found
