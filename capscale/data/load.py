"""The text that a command line names."""

from etils import epath

from capscale.data.corpus import load_corpus
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
