"""How much of a text comes back from its tokens: a tokenizer that cannot spell a character may drop it in silence.

What normalisers do is no loss: case, accents, width and ligatures (NFKC), blanks and invisible characters may change.
Both texts are folded before they are compared, character by character: compatibility decomposition, case folding, then
letters, digits, punctuation and symbols only. What is compared is how often each occurs in a document, as normalisers
and decoders change order too. Tokens for what is unknown are left out before tokens become text.
"""

import hashlib
import unicodedata
from collections import Counter
from functools import cache
from typing import NamedTuple

from capscale.errors import UserError

MOST_LOST = 0.01
"""Largest share of characters that a tokenizer may lose, by default.

Bits per byte count all bytes of the text, and are wrong by that share. Tokenizers over bytes, and those that fall back
on them, lose nothing; this leaves room for rare symbols that others have no token for.
"""
FIRST, EVERY = 8, 64
"""Documents that are compared: the first of every part, and one in so many, by a hash of their text."""
ENOUGH = 1 << 14
"""Characters after which a part that lost too many is not gone on with."""


class Sample(NamedTuple):
    """Statistics of a sample of documents.

    Attributes:
      documents: how many were compared.
      characters: in them, folded; blanks are none.
      lost: how many of these did not come back.
      missing: the commonest of those.
    """

    documents: int = 0
    characters: int = 0
    lost: int = 0
    missing: str = ""

    @property
    def share(self) -> float:
        """Share of the characters that did not come back."""
        return self.lost / self.characters if self.characters else 0.0

    def __add__(self, other: "Sample") -> "Sample":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Counts of both samples together."""
        missing = "".join(dict.fromkeys(self.missing + other.missing))[:MISSING]
        documents, characters = self.documents + other.documents, self.characters + other.characters
        return Sample(documents, characters, self.lost + other.lost, missing)

    def check(self, most: float, tokenizer: str) -> None:
        """Raises `UserError` where more than the share `most` did not come back."""
        if self.share > most:
            raise UserError(
                f"tokenizer {tokenizer!r} cannot spell this text: {self.share:.2%} of {self.characters:,} characters "
                f"in {self.documents:,} documents do not come back from their tokens, such as {self.missing!r}; take "
                f"one that has them or falls back on bytes, or allow it by --most-lost (now {most:g})"
            )


MISSING = 8
"""Characters that are named of those that did not come back."""


def compare(text: str, again: str) -> Sample:
    """One document, and what its tokens were decoded to."""
    before, after = _folded(text), _folded(again)
    lost = before - after
    return Sample(1, before.total(), lost.total(), "".join(character for character, _ in lost.most_common(MISSING)))


def is_sampled(number: int, text: bytes) -> bool:
    """Whether the document of this number in its part is compared; it does not depend on who does the part."""
    return number < FIRST or int.from_bytes(hashlib.blake2b(text, digest_size=8, key=b"fidelity").digest()) % EVERY == 0


def _folded(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for character, count in Counter(text).items():
        for part in _parts(character):
            found[part] += count
    return found


@cache
def _parts(character: str) -> str:
    """Letters, digits, punctuation and symbols of a folded character."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(part for part in folded if unicodedata.category(part)[0] in "LNPS")
