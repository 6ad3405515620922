"""A checkpoint's directory as it is written: shards as they fill up, the index, and config.json last."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from capscale.checkpoints.safetensors_file import INDEX, SINGLE
from capscale.errors import UserError
from capscale.files import write_json, writing

SHARD_BYTES = 4_000_000_000
"""A shard is closed before it grows beyond this many bytes; it is held in memory until then."""


TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files in which transformers keeps a tokenizer beside a checkpoint."""


def copy_tokenizer(source: Path, directory: Path) -> list[Path]:
    """Copies the tokenizer's files of a checkpoint as they are, those that there are; the copies."""
    found = [source / name for name in TOKENIZER if (source / name).is_file()]
    with writing(directory):
        return [Path(shutil.copyfile(path, directory / path.name)) for path in found]


def new_directory(directory: Path) -> Path:
    """Makes a directory; `UserError` for one that holds files."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is not an empty directory; name another one, nothing is written over")
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    return directory


class Folder:
    """Tensors that are added one after the other, in files that hold at most `shard_bytes` of them."""

    def __init__(self, directory: Path, shard_bytes: int = SHARD_BYTES):
        self._directory, self._most = new_directory(directory), shard_bytes
        self._held: dict[str, np.ndarray] = {}
        self._written: list[tuple[Path, list[str]]] = []
        self._bytes = 0
        self.metadata: dict[str, str] = {"format": "pt"}
        """Words in the header of every file."""

    def add(self, name: str, value: np.ndarray) -> int:
        """Takes a tensor, which is on disk at the latest after `finish`; its bytes."""
        if self._held and sum(held.nbytes for held in self._held.values()) + value.nbytes > self._most:
            self._close_shard()
        self._held[name] = value
        return value.nbytes

    def finish(self, config: Mapping[str, Any]) -> list[Path]:
        """Names the shards, writes their index and config.json; all files."""
        self._close_shard()
        if len(self._written) == 1:
            with writing(self._directory):
                files = [self._written[0][0].rename(self._directory / SINGLE)]
        else:
            files = self._indexed()
        path = self._directory / "config.json"
        write_json(epath.Path(path), dict(config))
        return [*files, path]

    def _close_shard(self) -> None:
        from safetensors.numpy import save_file

        if not self._held:
            return
        path = self._directory / f"shard-{len(self._written)}.tmp"
        with writing(path):
            save_file({name: np.asarray(value, order="C") for name, value in self._held.items()}, path, self.metadata)
        self._bytes += sum(value.nbytes for value in self._held.values())
        self._written.append((path, list(self._held)))
        self._held = {}

    def _indexed(self) -> list[Path]:
        count, files, weight_map = len(self._written), [], {}
        for number, (path, names) in enumerate(self._written, 1):
            name = f"model-{number:05}-of-{count:05}.safetensors"
            weight_map |= dict.fromkeys(names, name)
            with writing(path):
                files.append(path.rename(self._directory / name))
        index = {"metadata": {"total_size": self._bytes}, "weight_map": weight_map}
        with writing(self._directory / INDEX):
            (self._directory / INDEX).write_text(json.dumps(index, indent=1) + "\n")
        return [*files, self._directory / INDEX]
