"""Errors that count as damage, and others that pass: by words and types of orbax, tensorstore, XLA and storage."""

import errno
import json

import pytest
from jax.errors import JaxRuntimeError

from capscale.train.checkpoint_errors import is_damage


def behind(error, cause=None, context=None):
    error.__cause__, error.__context__ = cause, context
    return error


OUT_OF_MEMORY = JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")
READING = 'Error opening "zarr" driver: Error reading "state.params/.zarray" in OCDBT database at local file "9/d/73a"'
DATA_LOSS = ValueError(f"DATA_LOSS: {READING}: Error decoding b-tree node: CRC-32C checksum verification failed")

DAMAGE = [
    ValueError("its numbers are not those that were saved"),
    json.JSONDecodeError("Expecting value", "", 0),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    KeyError("tree_metadata"),
    AssertionError(),
    EOFError("cut short"),
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    IsADirectoryError(errno.EISDIR, "Is a directory"),
    DATA_LOSS,
    ValueError(f"NOT_FOUND: {READING}"),
    ValueError(f'FAILED_PRECONDITION: {READING}: Expected "shape" of [96,8]'),
    behind(Exception("Encountered error while reading array index: (slice(0, 96, 1),)"), cause=DATA_LOSS),
    behind(json.JSONDecodeError("Expecting value", "", 0), context=StopIteration(0)),
    ExceptionGroup("reading", [DATA_LOSS, FileNotFoundError(errno.ENOENT, "No such file or directory")]),
]
PASSING = [
    OUT_OF_MEMORY,
    JaxRuntimeError("INVALID_ARGUMENT: no such device"),
    MemoryError(),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.ETIMEDOUT, "Connection timed out"),
    PermissionError(errno.EACCES, "Permission denied"),
    RuntimeError("503 Service Unavailable"),
    ValueError(f"UNKNOWN: {READING}: Failed to read [OS error 5: EIO Input/output error]"),
    ValueError(f"UNAVAILABLE: {READING}: HTTP response code: 503"),
    ValueError(f"DEADLINE_EXCEEDED: {READING}"),
    ValueError(f"PERMISSION_DENIED: {READING}: Failed to open [OS error 13: EACCES Permission denied]"),
    behind(Exception("Encountered error while reading array index: (slice(0, 96, 1),)"), cause=OUT_OF_MEMORY),
    behind(ValueError("cannot restore"), cause=OSError(errno.EIO, "Input/output error")),
    behind(ValueError("cannot restore"), context=behind(KeyError("state"), context=MemoryError())),
    behind(RuntimeError("503"), context=KeyError("not in the cache")),
    behind(ValueError("cannot restore"), cause=ExceptionGroup("reading", [OUT_OF_MEMORY])),
    ExceptionGroup("reading", [DATA_LOSS, OUT_OF_MEMORY]),
]


@pytest.mark.parametrize("error", DAMAGE, ids=repr)
def test_signs_of_damage(error):
    assert is_damage(error)


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_is_none(error):
    assert not is_damage(error)


def test_errors_that_stand_behind_one_another_end():
    first, second = ValueError("first"), ValueError("second")
    assert is_damage(behind(first, cause=behind(second, context=first)))
