"""Laws of the rise of the loss when trained weights are rounded: k D^b N^-a, times a function of the format.

Every law is linear in logarithms: ln rise = ln k + b ln D - a ln N + shape.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from capscale.analysis.rises.table import Rises


class Form(NamedTuple):
    """One law of rises.

    Attributes:
      name: words that tables know it by.
      formula: of the rise.
      source: where it stands.
      fixed: part of ln rise that has no number (R,).
      feature: what the number of the form multiplies (R,); None of a form without one.
      number: name of that number.
      reported: the number, of the coefficient of `feature`.
      of_bits: whether it is about quantized formats alone.
    """

    name: str
    formula: str
    source: str
    fixed: Callable[[Rises], np.ndarray]
    feature: Callable[[Rises], np.ndarray] | None = None
    number: str = ""
    reported: Callable[[np.ndarray], np.ndarray] = np.asarray
    of_bits: bool = False


def _nothing(of: Rises) -> np.ndarray:
    return np.zeros(len(of.rise))


def _inverse(coefficient: np.ndarray) -> np.ndarray:
    return 1 / coefficient


GMSE = Form(
    "gmse",
    "k D^b N^-a GMSE",
    "first order in the error of the weights; what remains is a function of N and D, as in arXiv 2411.17691",
    lambda of: np.log(of.gmse),
)
"""The law: in proportion to the Gaussian error, whatever the kind of format."""
POWER = Form(
    "gmse-power",
    "k D^b N^-a GMSE^c",
    "the same with a free exponent; c = 1 is proportion",
    _nothing,
    lambda of: np.log(of.gmse),
    "c",
)
REALISED = Form(
    "realised",
    "k D^b N^-a error",
    "in proportion to the error that the weights realised, which is not known before they are rounded",
    lambda of: np.log(of.error),
)
QID = Form(
    "qid",
    "k D^b N^-a P^-g; P bits of the weights",
    "Ouyang et al. 2024, arXiv 2411.17691, figure 7",
    _nothing,
    lambda of: -np.log(of.bits),
    "g",
    of_bits=True,
)
KUMAR = Form(
    "kumar",
    "k D^b N^-a exp(-P / gamma); P bits of the weights",
    "Kumar et al. 2024, arXiv 2411.04330, the rise of models that were trained dense",
    _nothing,
    lambda of: -of.bits,
    "gamma",
    _inverse,
    of_bits=True,
)
FORMS = (GMSE, POWER, REALISED, QID, KUMAR)
