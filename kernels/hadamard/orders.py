"""Orders of symmetric Hadamard matrices: powers of two, and those times 12, 20, 28 and 36 for widths such as 576."""

from functools import cache

BASES = (12, 20, 28, 36)
"""Orders, for widths whose odd part is 3, 5, 7 or 9, that are no Kronecker product with a power of two. Every value
of a run of that length meets every other, which costs as many additions a value, so that larger ones do not pay."""

Matrix = tuple[tuple[int, ...], ...]
"""Rows of a matrix of ±1, or of ±1 and 0."""


def base_of(order: int) -> int | None:
    """The one of `BASES`, or 1, that is `order` over a power of two; None where there is no such matrix here."""
    candidates = (1, *BASES) if order > 1 else ()
    return next((base for base in candidates if order % base == 0 and (order // base).bit_count() == 1), None)


@cache
def hadamard_matrix(order: int) -> Matrix:
    """Symmetric matrix of ±1 with `H H = order * I`: that of a base, Kronecker's product with one of Sylvester's.

    Raises ValueError for an order that `base_of` does not know.
    """
    base = base_of(order)
    if base is None:
        raise ValueError(f"order={order} must be a power of two from 2, or one times {BASES}")
    sylvester = [[-1 if (i & j).bit_count() % 2 else 1 for j in range(order // base)] for i in range(order // base)]
    return _kronecker(((1,),) if base == 1 else _of_paley(base), tuple(map(tuple, sylvester)))


def _of_paley(order: int) -> Matrix:
    """Matrix of one of `BASES`, by the constructions of Paley over the integers modulo a prime q.

    On orthogonal matrices, Journal of Mathematics and Physics 12, 1933. The first, of order q + 1, for q = 3 modulo 4,
    has its rows in an order that makes it symmetric; the second, of order 2 (q + 1), for q = 1 modulo 4, is symmetric.
    """
    if order in (12, 20):
        q = order - 1
        return _bordered(1, tuple(tuple(-_character(i + j, q) or -1 for j in range(q)) for i in range(q)))
    q = order // 2 - 1
    conference = _bordered(0, tuple(tuple(_character(i - j, q) for j in range(q)) for i in range(q)))
    off = _kronecker(conference, ((1, 1), (1, -1)))
    on = {(0, 0): 1, (0, 1): -1, (1, 0): -1, (1, 1): -1}
    return tuple(
        tuple(value or on[i % 2, j % 2] for j, value in enumerate(row)) for i, row in enumerate(off)
    )  # the blocks that are zero lie on the diagonal


def _character(x: int, q: int) -> int:
    """1 for squares modulo the prime q, -1 for others, 0 for 0."""
    power = pow(x, (q - 1) // 2, q)
    return power if power < 2 else -1


def _bordered(corner: int, core: Matrix) -> Matrix:
    return ((corner, *(1 for _ in core)), *((1, *row) for row in core))


def _kronecker(left: Matrix, right: Matrix) -> Matrix:
    return tuple(tuple(x * y for x in outer for y in inner) for outer in left for inner in right)
