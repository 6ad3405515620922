"""One part of the input made into token shards: what a worker process does."""

import functools
import hashlib
import io
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from etils import epath

from capscale.checks import check_finite, check_whole
from capscale.data.blocks import BLOCK, SIZE, SUFFIX, BlockDigests
from capscale.data.fidelity import ENOUGH, MOST_LOST, Sample, compare, is_sampled
from capscale.data.inputs import Part
from capscale.data.manifest import Shard
from capscale.data.tokenizer import Tokenizer, TokenizerId, load_tokenizer
from capscale.errors import UserError
from capscale.files import read_json, write_bytes, write_json, writing
from capscale.store import TEMPORARY

SHARD = 1 << 25
"""Most tokens per shard, which are held in memory until they are written."""
ENCODED = 1 << 18
"""UTF-8 bytes of the documents encoded at a time, the last one not counted."""
REMEDY = "remove the directory or choose another --out"
"""For a directory that was begun with something else."""
WORK = ".parts"
"""Folder of what is kept until all parts are done."""


@dataclass(frozen=True)
class Split:
    """Which documents are held out: those whose text has a hash in the first `share` of all hashes.

    The same text is always on the same side, whatever else is in the data. Of those held out, the first `cap` tokens in
    the order of the input are the validation set; what goes beyond is used for nothing.
    """

    share: float
    cap: int

    def __post_init__(self):
        check_finite(self, "share")
        check_whole(self, "cap")
        if not 0 < self.share < 1:
            raise UserError(f"validation share {self.share} must lie between 0 and 1")
        if not 1 <= self.cap <= SHARD:
            raise UserError(f"validation tokens {self.cap:,} must lie between 1 and {SHARD:,}")

    def holds_out(self, text: bytes) -> bool:
        """Whether a document is held out, by 64 bits of BLAKE2b of its UTF-8 text."""
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") < self.share * 2.0**64


@dataclass(frozen=True)
class Job:
    """Settings that all parts have in common."""

    out: str
    tokenizer: str
    end: str | None
    identity: TokenizerId
    split: Split
    most_lost: float = MOST_LOST


def tokenize(job: Job, number: int, part: Part) -> None:
    """Writes the shards of a part, its held-out documents, and last its record.

    Memory does not grow with the part: documents are streamed, shards have a largest size.
    """
    out = epath.Path(job.out)
    tokenizer = _loaded(job.tokenizer, job.end)
    if tokenizer.id != job.identity:
        raise UserError(f"tokenizer {job.tokenizer!r} changed while it was in use; start again with an empty --out")
    train = _Shards(out, number, job.identity.dtype)
    held_out: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []  # tokens and bytes of each document held out
    held, beyond = 0, [0, 0]
    sample = Sample()
    for place, (text, tokens) in enumerate(_encoded(part, tokenizer)):
        if is_sampled(place, text):
            sample += compare(text.decode(), tokenizer.decode(tokens))
            if sample.characters >= ENOUGH:
                sample.check(job.most_lost, job.tokenizer)
        if len(tokens) > SHARD:
            raise UserError(
                f"a document of {len(tokens):,} tokens, which begins with {text[:40].decode(errors='ignore')!r}, is "
                f"longer than a shard of {SHARD:,}; split it into several"
            )
        if not job.split.holds_out(text):
            train.add(tokens, len(text))
        elif not beyond[0] and held + len(tokens) <= job.split.cap:
            held_out.append(tokens)
            sizes.append((len(tokens), len(text)))
            held += len(tokens)
        else:
            beyond = [beyond[0] + 1, beyond[1] + len(tokens)]
    shards = train.close()
    work = out / WORK
    contents = np.concatenate([np.empty(0, job.identity.dtype), *held_out]), np.array(sizes, np.int64).reshape(-1, 2)
    kept = dict(zip(held_out_files(number), contents, strict=True))
    record = {
        "train": [asdict(shard) for shard in shards],
        "unused": {"documents": beyond[0], "tokens": beyond[1]},
        "sample": sample._asdict(),
        "held_out": {name: save(work / name, content)[0] for name, content in kept.items()},
    }
    write_json(work / f"{number:05d}.json", record)


def is_done(out: epath.Path, number: int) -> bool:
    """Whether a part has its record, and files of full size: a machine without power may lose its last writes."""
    try:
        record = read_json(out / WORK / f"{number:05d}.json", REMEDY)
        shards = shards_of(record, out / WORK / f"{number:05d}.json")
        sizes = {out / shard.file: shard.size for shard in shards}
        sizes |= {out / (shard.file + SUFFIX): SIZE * -(-shard.size // BLOCK) for shard in shards if shard.blocks}
        sizes |= {out / WORK / name: record["held_out"][name] for name in held_out_files(number)}
        Sample(**record["sample"])
        return all(path.stat().length == size for path, size in sizes.items())
    except (UserError, OSError, KeyError, TypeError):
        return False


def shards_of(record: dict[str, Any], path: epath.Path) -> list[Shard]:
    """The shards that a part's record lists; `UserError` where that names files elsewhere."""
    return [Shard.described(shard, path, REMEDY) for shard in record["train"]]


def held_out_files(number: int) -> tuple[str, str]:
    """Files in the folder of work that hold a part's held-out tokens, and the sizes of its held-out documents."""
    return f"{number:05d}-tokens.npy", f"{number:05d}-documents.npy"


class _Shards:
    """Collects documents into shards of at most `SHARD` tokens; no document lies in two."""

    def __init__(self, out: epath.Path, part: int, dtype: np.dtype):
        self._out, self._part = out, part
        self._tokens = np.empty(SHARD, dtype)
        self._filled = self._documents = self._text_bytes = 0
        self._done: list[Shard] = []

    def add(self, tokens: np.ndarray, text_bytes: int) -> None:
        if self._filled + len(tokens) > SHARD:
            self._write()
        self._tokens[self._filled : self._filled + len(tokens)] = tokens
        self._filled += len(tokens)
        self._documents += 1
        self._text_bytes += text_bytes

    def close(self) -> list[Shard]:
        if self._filled:
            self._write()
        return self._done

    def _write(self) -> None:
        name = f"train-{self._part:05d}-{len(self._done):03d}.npy"
        saved = save_shard(self._out / name, self._tokens[: self._filled])
        self._done.append(Shard(name, self._filled, self._documents, self._text_bytes, **saved))
        self._filled = self._documents = self._text_bytes = 0


def _encoded(part: Part, tokenizer: Tokenizer) -> Iterator[tuple[bytes, np.ndarray]]:
    """Every document's UTF-8 text and tokens, encoded some at a time."""
    texts: list[str] = []
    contents: list[bytes] = []
    size = 0
    for text in (text for documents in part for text in documents.documents()):
        texts.append(text)
        contents.append(text.encode())
        size += len(contents[-1])
        if size >= ENCODED:
            yield from zip(contents, tokenizer.encode(texts), strict=True)
            texts, contents, size = [], [], 0
    yield from zip(contents, tokenizer.encode(texts), strict=True)


@functools.lru_cache(maxsize=1)
def _loaded(name: str, end: str | None) -> Tokenizer:
    return load_tokenizer(name, end)


def save_shard(path: epath.Path, tokens: np.ndarray) -> dict[str, Any]:
    """Writes a shard, and the digests of its blocks beside it; the last three fields of `Shard`."""
    digests = BlockDigests()
    size, sha256 = save(path, tokens, digests)
    write_bytes(path.parent / (path.name + SUFFIX), digests.digest())
    return {"size": size, "sha256": sha256, "blocks": hashlib.sha256(digests.digest()).hexdigest()}


def save(path: epath.Path, tokens: np.ndarray, *digests: BlockDigests) -> tuple[int, str]:
    """Writes an array as .npy, whole or not at all; its size in bytes and its SHA-256. `digests` are given it too."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(tokens))
    # A copy of the header, not a view: CPython 3.12.1 crashes when it collects a view together with its BytesIO.
    contents = (header.getvalue(), np.ascontiguousarray(tokens).reshape(-1).view(np.uint8).data)
    whole, size = hashlib.sha256(), 0
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}"
    with writing(path):
        try:
            with temporary.open("wb") as file:
                for content in contents:
                    file.write(content)
                    for digest in (whole, *digests):
                        digest.update(content)
                    size += len(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return size, whole.hexdigest()
