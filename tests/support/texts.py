"""Documents, tokenizers of a few hundred tokens, and shards made of them."""

import io
import json
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from etils import epath

from capscale.data.manifest import Manifest
from capscale.data.prepare import Request, prepare
from capscale.data.tokenize import Split

SEPARATOR = "\n\n<|endoftext|>\n"


@cache
def documents(count: int = 200) -> tuple[str, ...]:
    """Different documents of a few hundred bytes, with characters of one to four bytes."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlué€𝄞", k=rng.randint(1, 8))) for _ in range(300)]
    return tuple(
        f"{number}\n" + "\n".join(" ".join(rng.choices(words, k=8)) for _ in range(rng.randint(1, 12)))
        for number in range(count)
    )


def write_text(path: Path, texts: tuple[str, ...] | None = None) -> Path:
    path.write_text(SEPARATOR.join(documents() if texts is None else texts), encoding="utf-8")
    return path


def json_lines(texts: tuple[str, ...] | None = None, **more: Any) -> bytes:
    """Records as C4's: a text, and fields that are of no interest."""
    record = {"timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"} | more
    lines = (json.dumps({"text": text} | record) for text in (documents() if texts is None else texts))
    return "".join(f"{line}\n" for line in lines).encode()


@cache
def sentencepiece_model(**options: Any) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in documents() for line in text.split("\n")),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@cache
def huggingface_json(end: str = "<|endoftext|>", *, template: bool = False, hampered: bool = False) -> str:
    """A byte-level tokenizer file; perhaps one that adds tokens around a text, or that truncates and pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", end] if template else [end]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents(), trainer)
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"<s> $A {end}", special_tokens=[("<s>", 0), (end, 1)]
        )
    if hampered:
        tokenizer.enable_truncation(8)
        tokenizer.enable_padding(length=16)
    return tokenizer.to_str()


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Fatal:
    """Documents that kill the process that reads them, as a machine without memory does."""

    def documents(self) -> Iterator[str]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield ""


def shards(out: Path, *inputs: Path, workers: int = 1, **changes: Any) -> Manifest:
    """Byte shards of files, with enough held out of a few hundred documents."""
    options = {"tokenizer": "byte", "separator": SEPARATOR, "name": "texts"} | changes
    options = options if "split" in options else options | {"split": Split(0.1, 1 << 20)}
    return prepare(Request(inputs=tuple(map(str, inputs)), **options), epath.Path(out), workers)
