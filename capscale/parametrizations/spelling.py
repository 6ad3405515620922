"""Names of parametrizations, in and out.

    shared4              four entries a stored number
    hashed0.25           a number for a quarter of the entries, which a hash gives to them
    lowrank0.25          factors of a quarter of the entries;   lowrank-r8: of rank 8
    kronecker0.25        products of a quarter of the entries;  kronecker-k8: eight products
    monarch4             4 x 4 slices of rank 1
    nola0.25-r8          coefficients of a quarter of the entries, rank 8

Behind shared, hashed and nola `-seed7` may stand.
"""

import re
from collections.abc import Callable

from capscale.errors import UserError
from capscale.parametrizations.base import Parametrization
from capscale.parametrizations.hashing import Hashed
from capscale.parametrizations.kronecker import KroneckerSum
from capscale.parametrizations.low_rank import LowRank
from capscale.parametrizations.monarch import Monarch
from capscale.parametrizations.nola import Nola
from capscale.parametrizations.sharing import Shared

_SHARE, _SEED = r"(\d+(?:\.\d+)?(?:e-\d+)?)", r"(?:-seed(\d+))?"
_READ: tuple[tuple[str, Callable[..., Parametrization]], ...] = (
    (rf"shared(\d+){_SEED}", lambda share, seed: Shared(int(share), int(seed or 0))),
    (rf"hashed{_SHARE}{_SEED}", lambda share, seed: Hashed(float(share), int(seed or 0))),
    (r"lowrank-r(\d+)", lambda rank: LowRank(int(rank))),
    (rf"lowrank{_SHARE}", lambda share: LowRank(share=float(share))),
    (r"kronecker-k(\d+)", lambda terms: KroneckerSum(int(terms))),
    (rf"kronecker{_SHARE}", lambda share: KroneckerSum(share=float(share))),
    (r"monarch(\d+)", lambda blocks: Monarch(int(blocks))),
    (rf"nola{_SHARE}-r(\d+){_SEED}", lambda share, rank, seed: Nola(float(share), int(rank), int(seed or 0))),
)


def parametrization_name(parametrization: Parametrization) -> str:
    """Name that `find_parametrization` reads; the repr of one from outside, which has none.

    Example:
      >>> parametrization_name(Shared(4))
      'shared4'
    """
    name = str(parametrization)
    return name if find_parametrization(name) == parametrization else repr(parametrization)


def find_parametrization(name: str) -> Parametrization | None:
    """The parametrization that a name means; None for other names.

    Raises:
      UserError: a name of one with numbers that it cannot have.

    Example:
      >>> find_parametrization("lowrank0.25")
      LowRank(rank=None, share=0.25)
    """
    for pattern, make in _READ:
        if found := re.fullmatch(pattern, name.strip()):
            try:
                return make(*found.groups())
            except UserError as error:
                raise UserError(f"{name!r}: {error}") from None
    return None
