"""GGUF files: what is written reads back, and files that are none are refused."""

import struct

import numpy as np
import pytest

from capscale.checkpoints.gguf_blocks import TYPES
from capscale.checkpoints.gguf_file import MAGIC, read, write
from capscale.checkpoints.gguf_model import interleaved
from capscale.errors import UserError

METADATA = {"general.architecture": "llama", "llama.block_count": 2, "eps": 0.5, "flag": True}


@pytest.fixture
def whole(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    blocks = np.arange(36, dtype=np.uint8).reshape(2, 18)
    tensors = {
        "a": (TYPES["F32"], (2, 3), lambda: values),
        "b": (TYPES["Q4_0"], (2, 32), lambda: blocks),
    }
    return write(tmp_path / "model.gguf", METADATA, tensors), values, blocks


def test_what_is_written_reads_back(whole):
    path, values, blocks = whole
    found = read(path)
    assert found.metadata == METADATA
    assert {name: (t.kind.name, t.shape) for name, t in found.tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("Q4_0", (2, 32)),
    }
    for name, value in (("a", values), ("b", blocks)):
        tensor = found.tensors[name]
        assert tensor.start % 32 == 0
        assert path.read_bytes()[tensor.start : tensor.start + tensor.nbytes] == value.tobytes()
    assert TYPES["Q4_0"].bits == 4.5


def test_files_that_are_not_whole_are_refused(whole):
    path, *_ = whole
    content = path.read_bytes()
    for broken, message in (
        (content[:-40], "tensor 'b' of shape .2, 32. reaches beyond its end"),
        (content[:50], "it ends inside its header"),
        (b"PK" + content[2:], "it does not begin with GGUF"),
        (MAGIC + struct.pack("<IQQ", 9, 1, 1), "it is of version 9"),
        (MAGIC + struct.pack("<IQQ", 3, 2**60, 1), "tensors"),
        (MAGIC + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**40), "bytes in a word"),
        (MAGIC + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99), "metadata of type 99"),
        (content.replace(struct.pack("<IQ", 2, 32), struct.pack("<IQ", 999, 32)), "it ends inside|has .* axes|type"),
        (b"", "it ends inside its header"),
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"not a whole GGUF file .*{message}"):
            read(path)
    with pytest.raises(UserError, match="no such file"):
        read(path.with_name("other.gguf"))


def test_metadata_of_every_type_is_read(tmp_path):
    """Arrays and numbers that llama.cpp writes, and this package does not."""
    words = struct.pack("<IIQ", 9, 8, 2) + b"".join(struct.pack("<Q", len(w)) + w for w in (b"ab", b"c"))
    numbers = struct.pack("<IIQ", 9, 5, 3) + struct.pack("<iii", -1, 0, 7)
    body = b"".join(struct.pack("<Q", 1) + key + value for key, value in ((b"w", words), (b"n", numbers)))
    (tmp_path / "x.gguf").write_bytes(MAGIC + struct.pack("<IQQ", 3, 0, 2) + body)
    assert read(tmp_path / "x.gguf").metadata == {"w": ["ab", "c"], "n": [-1, 0, 7]}


def test_rows_are_interleaved_head_by_head():
    rows = np.arange(8)[:, None]
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
