"""The text that a command line names."""

from etils import epath

from capscale.data.corpus import STANDARD_LIBRARY, VOCABULARY, DataId, load_corpus
from capscale.data.saved import refuse_saved
from capscale.data.source import Source


def load_source(path: str | None) -> Source:
    """The prose of the standard library (None), the bytes of a text file, or the token shards of a directory.

    Raises `UserError` when there is no such file, or no manifest in the directory.
    """
    if path is not None and (directory := epath.Path(path)).is_dir():
        from capscale.data.shards import Shards  # grain is for those who have shards

        refuse_saved(directory)
        return Shards(directory)
    return load_corpus(path)


def unread_id(path: str | None) -> DataId:
    """Identity of a text that is not read yet: right but for the hash of a text file, which is zeros.

    Enough to refuse runs that cannot be, ahead of a text that takes long to read. Raises `UserError` for a directory
    without a manifest.
    """
    if path is not None and epath.Path(path).is_dir():
        return load_source(path).id
    name = STANDARD_LIBRARY if path is None else epath.Path(path).name
    return DataId(name, "0" * 64, VOCABULARY)
