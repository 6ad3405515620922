"""Data sets of the Hugging Face Hub, streamed through `datasets`."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from etils import epath

from capscale.data.records import text_of
from capscale.data.saved import refuse_saved
from capscale.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """A split of a data set.

    Attributes:
      name: on the hub, as `allenai/c4`; or a directory of the same layout.
      subset: which configuration, as `en`; the only one if not given.
      split: which split.
      revision: branch, tag or commit.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None

    def shards(self) -> tuple[str, ...]:
        """Its files in order, on the hub with their commit; `UserError` when it cannot be reached."""
        if (directory := epath.Path(self.name)).is_dir() and not (directory / "dataset_dict.json").exists():
            refuse_saved(directory)
        return tuple(_files(self))


@dataclass(frozen=True)
class Share:
    """One shard of a data set, of `count`: a file of it."""

    dataset: Dataset
    index: int
    count: int
    field: str = "text"

    def documents(self) -> Iterator[str]:
        """Documents of the share; see `capscale.data.inputs.Documents`."""
        place = f"data set {self.dataset.name!r}, shard {self.index} of {self.count}"
        stream = _loading(self.dataset, _stream)
        try:
            for number, record in enumerate(stream.shard(self.count, self.index)):
                if text := text_of(record, self.field, f"{place}, record {number:,}"):
                    yield text
        except UserError:
            raise
        except Exception as error:  # whatever a reader of `datasets` meets: network, compression, Arrow
            raise UserError(f"{place} cannot be read ({_short(error)}); check the connection and the files") from error


@functools.lru_cache(maxsize=1)
def _stream(dataset: Dataset) -> Any:
    import datasets

    return datasets.load_dataset(
        dataset.name, dataset.subset, split=dataset.split, revision=dataset.revision, streaming=True
    )


def _files(dataset: Dataset) -> list[str]:
    def resolve(dataset: Dataset) -> list[str]:
        import datasets

        builder = datasets.load_dataset_builder(dataset.name, dataset.subset, revision=dataset.revision)
        files = [str(file) for file in (builder.config.data_files or {}).get(dataset.split, [])]
        count = _stream(dataset).num_shards  # says so itself when there is no such split
        return files if len(files) == count else [f"{dataset.split}-{number:05d}" for number in range(count)]

    return _loading(dataset, resolve)


def _loading(dataset: Dataset, load: Any) -> Any:
    try:
        return load(dataset)
    except ImportError as error:
        raise UserError("data sets of the hub need the package datasets; install 'capscale[data]'") from error
    except Exception as error:  # `datasets` raises many kinds, all for what the user named
        raise UserError(
            f"data set {dataset.name!r} (subset {dataset.subset!r}, split {dataset.split!r}) cannot be opened "
            f"({_short(error)}); check the names and the connection"
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
