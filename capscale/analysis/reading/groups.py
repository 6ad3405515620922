"""Columns that say what runs can be compared: one law is about one family of models, corpus and tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from capscale.analysis.names import word
from capscale.analysis.reading.columns import bare_names
from capscale.analysis.reading.numbers import is_missing
from capscale.errors import UserError

GROUPS = frozenset({
    "family", "model_family", "architecture", "arch", "model_type", "model_class", "series", "suite", "corpus",
    "corpus_name", "dataset", "dataset_name", "data", "train_data", "training_data", "train_dataset",
    "training_dataset", "data_mix", "data_mixture", "train_corpus", "training_corpus", "data_sha256", "eval_data",
    "val_data", "eval_dataset", "val_dataset", "eval_set", "val_set", "tokenizer", "tokeniser", "tokenizer_name",
    "vocab", "vocabulary", "vocab_size", "vocabulary_size", "n_vocab",
})  # fmt: skip
"""Names of such columns, as `bare_names` has them."""


def is_group(name: str) -> bool:
    """Whether a column of that name says what runs can be compared."""
    return any(bare in GROUPS for bare in bare_names(name))


def refuse_mixtures(records: Sequence[Mapping[str, Any]], source: str) -> None:
    """Refuses rows of several families, corpora or tokenizers: their dense runs would be one curve.

    A name that every size has its own of, such as llama-30M, is a name of sizes.

    Raises:
      UserError: naming the column, its values, and how to choose one.
    """
    for name in dict.fromkeys(name for record in records for name in record):
        if not is_group(name):
            continue
        values = [_value(record.get(name)) for record in records]
        several = list(dict.fromkeys(values))
        if len(several) < 2 or _names_sizes(values, records):
            continue
        counts = [f"{value or '(empty)'} ({values.count(value)} rows)" for value in several[:6]]
        raise UserError(
            f"{source}: column {name!r} tells apart runs that no one law is about: {', '.join(counts)}"
            f"{', ...' if len(several) > 6 else ''}; choose one: --where '{name}={next(v for v in several if v)}'"
        )


def _value(cell: Any) -> str:
    return "" if is_missing(cell) else word(cell, "a group")


def _names_sizes(values: Sequence[str], records: Sequence[Mapping[str, Any]]) -> bool:
    pairs = {(value, record.get("N")) for value, record in zip(values, records, strict=True)}
    return len(pairs) >= 3 and len(pairs) == len(set(values)) == len({N for _, N in pairs})
