"""Manifest of a directory of token shards: written last, checked first."""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from etils import epath

from capscale.artifacts import check_seal, digest, sealed
from capscale.checks import LARGEST_COUNT, check_whole
from capscale.data.corpus import DataId
from capscale.data.fidelity import Sample
from capscale.data.tokenizer import TokenizerId
from capscale.errors import UserError
from capscale.files import is_there, parse_json, plain_name, read_json, write_json, write_text

SCHEMA = 1
"""Version of manifest.json."""
NAME = "manifest.json"
STAMP = ".verified.json"
"""Which files had the right content, and how the file system knew them then."""
REMEDY = "prepare the data again"


@dataclass(frozen=True)
class Shard:
    """A file of tokens.

    Attributes:
      file: its name; numpy's .npy, one axis.
      tokens: how many.
      documents: how many; documents do not continue in another shard.
      text_bytes: UTF-8 bytes of the documents.
      size: bytes of the file.
      sha256: of the file.
      blocks: SHA-256 of the digests of its blocks, which lie beside it (`capscale.data.blocks`); None for shards of
        versions that made none.
    """

    file: str
    tokens: int
    documents: int
    text_bytes: int
    size: int
    sha256: str
    blocks: str | None = None

    def __post_init__(self):
        check_whole(self, "tokens", "documents", "text_bytes", "size", most=LARGEST_COUNT)

    @classmethod
    def described(cls, found: Any, path: epath.PathLike, remedy: str = REMEDY) -> "Shard":
        """The shard that `path` describes; `UserError` where it names a file elsewhere, or is no description."""
        kinds = {"file": str, "sha256": str, "blocks": str | None}
        fields = [field.name for field in dataclasses.fields(cls)]
        if isinstance(found, dict):
            found = {"blocks": None} | found
        if not isinstance(found, dict) or set(found) != set(fields):
            raise UserError(f"{path} describes a shard by {str(found)[:100]}, not by {fields}; {remedy}")
        for field in fields:
            if not isinstance(found[field], kinds.get(field, int)) or isinstance(found[field], bool):
                raise UserError(f"{path}: {field} of a shard is {str(found[field])[:100]!r}; {remedy}")
        plain_name(found["file"], path, "file of a shard", remedy)
        return cls(**found)


@dataclass(frozen=True)
class Manifest:
    """The shards of a text, and all that decided them.

    Attributes:
      name: of the text.
      dtype: of the tokens.
      tokenizer: whose tokens they are.
      recipe: inputs by name and size, separator, field, lengths at which documents are cut, and the split.
      train: shards to train on, in the order of the input.
      validation: shard that is held out.
      unused: held-out tokens and documents beyond the validation cap; they are in no shard.
      versions: packages that made the tokens.
      sample: how much of the text comes back from its tokens; None where it was not looked at.
    """

    name: str
    dtype: str
    tokenizer: TokenizerId
    recipe: dict[str, Any]
    train: tuple[Shard, ...]
    validation: Shard
    unused: dict[str, int]
    versions: dict[str, str]
    sample: Sample | None = None

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Shards of all its files."""
        return (*self.train, self.validation)

    @cached_property
    def data_id(self) -> DataId:
        """The text as a run's coordinate: its hash follows from the tokens alone, not from paths, dates or versions."""
        tokens = {
            "dtype": self.dtype,
            "vocabulary": self.tokenizer.vocabulary,
            "end": self.tokenizer.end,
            "train": [shard.sha256 for shard in self.train],
            "validation": self.validation.sha256,
        }
        return DataId(self.name, digest(tokens), self.tokenizer.vocabulary)

    def write(self, directory: epath.Path) -> None:
        """Writes manifest.json, whole or not at all."""
        sample = None if self.sample is None else self.sample._asdict()
        write_json(directory / NAME, sealed({"schema": SCHEMA, **dataclasses.asdict(self), "sample": sample}))

    @classmethod
    def read(cls, directory: epath.Path) -> "Manifest":
        """The manifest in `directory`; `UserError` when there is none, or it is not as it was written.

        Its digest tells what was altered, not who wrote it: names of files are held to lie in `directory`.
        """
        path = directory / NAME
        if not is_there(path):
            raise UserError(f"{directory} holds no {NAME}; make token shards with `capscale data prepare`")
        content = read_json(path, REMEDY)
        if content.get("schema") != SCHEMA:
            raise UserError(f"{path} has schema {content.get('schema')!r}, not {SCHEMA}; {REMEDY}")
        check_seal(path, content, REMEDY)
        try:
            return cls(
                **{field: content[field] for field in ("name", "dtype", "recipe", "unused", "versions")},
                tokenizer=TokenizerId(**content["tokenizer"]),
                train=tuple(Shard.described(shard, path) for shard in content["train"]),
                validation=Shard.described(content["validation"], path),
                sample=None if content.get("sample") is None else Sample(**content["sample"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is described incompletely ({error}); {REMEDY}") from error


def verify(manifest: Manifest, directory: Path, *, again: bool = False) -> None:
    """Compares every shard with the manifest: that it is there, its size, its SHA-256.

    Contents are hashed once: a stamp beside them remembers the files by size, times and inode, so that the runs of a
    sweep do not each read everything. A copied or rewritten file has another inode or change time, and is hashed.

    Args:
      manifest: of `directory`.
      directory: a local one.
      again: hash every file whatever the stamp says.

    Raises:
      UserError: names the first shard that is missing, cut short or altered.
    """
    with _VERIFYING:
        _verify(manifest, directory, again=again)


_VERIFYING = Lock()
"""Runs side by side ask for the same shards at once: one hashes them, the others wait for what it finds."""
_verified: dict[Path, dict[str, Any]] = {}
"""Stamps that could not be written, as of shards that this user may only read."""


def _verify(manifest: Manifest, directory: Path, *, again: bool) -> None:
    known = {} if again else _stamped(directory) | _verified.get(directory, {})
    marks = {shard.file: _mark(shard, directory) for shard in manifest.shards}
    unknown = [shard for shard in manifest.shards if known.get(shard.file) != [shard.sha256, *marks[shard.file]]]
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        for shard, found in zip(
            unknown, threads.map(lambda shard: sha256(directory / shard.file), unknown), strict=True
        ):
            if found != shard.sha256:
                raise UserError(
                    f"shard {directory / shard.file} was altered: its sha256 is {found[:12]}, not {shard.sha256[:12]}; "
                    "fetch it again, or prepare the data again"
                )
    if unknown:
        stamp = {shard.file: [shard.sha256, *marks[shard.file]] for shard in manifest.shards}
        try:
            write_text(epath.Path(directory / STAMP), json.dumps(stamp))
        except UserError:  # a directory that may only be read is hashed once in every process
            _verified[directory] = stamp
        else:
            _verified.pop(directory, None)


def sha256(path: Path) -> str:
    """SHA-256 of a local file's content; `UserError` when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"shard {path} cannot be read ({error.strerror}); check the disk and permissions") from error


def _mark(shard: Shard, directory: Path) -> list[int]:
    """File system's facts of a shard, to know it again."""
    path = directory / shard.file
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(
            f"shard {path} is missing ({error.strerror}); fetch it again, or prepare the data again"
        ) from error
    if found.st_size != shard.size:
        raise UserError(
            f"shard {path} has {found.st_size:,} bytes, not {shard.size:,}; fetch it again, or prepare the data again"
        )
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _stamped(directory: Path) -> dict[str, Any]:
    try:
        found = parse_json((directory / STAMP).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
