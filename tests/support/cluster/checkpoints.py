"""Orbax's manager on a bucket that is simulated: the same files in the same order, and the time that they take."""

import io
import json
import posixpath
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from capscale.clock import clock
from capscale.train.distributed import is_first
from capscale.train.unmarked import MARK, METADATA
from support.cluster.bucket import Bucket
from support.cluster.simulation import Killed


class Metadata:
    """Words of a checkpoint about itself."""

    def __init__(self, custom_metadata: dict[str, Any]):
        self.custom_metadata = custom_metadata


class Manager:
    """Of `orbax.checkpoint.CheckpointManager`, as much as `capscale.train.checkpoint` uses.

    A state holds "bytes", for as many as it stands for. Of several processes the first one writes.
    """

    bucket: Bucket

    def __init__(self, directory: Any, options: Any):
        self._place = str(directory).partition("://")[2]
        self._kept, self._background = options.max_to_keep, options.enable_async_checkpointing
        self._saving: Any = None
        self._failed: Exception | None = None
        self._steps: list[int] = []
        self.reload()

    def reload(self) -> None:
        names = [name for name, _ in self.bucket.names(self._place)]
        found = [posixpath.basename(name) for name in names]
        there = [int(name) for name in found if name.isdecimal()]
        self._steps = [step for step in there if self.bucket.is_there(f"{self._place}/{step}/{MARK}")]

    def all_steps(self) -> list[int]:
        return list(self._steps)

    def save(self, step: int, args: Any, custom_metadata: dict[str, Any]) -> None:
        self.wait_until_finished()
        content = io.BytesIO()
        np.savez(content, *jax.tree.leaves(args.item))
        nominal, place = int(args.item["state"]["bytes"]), f"{self._place}/{step}"

        def write() -> None:
            try:
                if is_first():
                    self._write(place, content.getvalue(), nominal, custom_metadata)
                self._steps.append(step)
                for old in sorted(self._steps)[: -self._kept]:
                    self.delete(old)
            except Killed:
                raise
            except Exception as error:
                self._failed = error

        if self._background:
            self._saving = clock().start(write, "orbax")
        else:
            write()
            self._raise()

    def _write(self, place: str, content: bytes, nominal: int, said: dict[str, Any]) -> None:
        begun = {"init_timestamp_nsecs": 1, "custom_metadata": said}
        self.bucket.put(f"{place}/{METADATA}", json.dumps(begun).encode())
        self.bucket.put(f"{place}/default/data", content, nominal=nominal)
        self.bucket.put(f"{place}/default/{MARK}", b"")
        self.bucket.put(f"{place}/{METADATA}", json.dumps(begun | {"commit_timestamp_nsecs": 2}).encode())
        self.bucket.put(f"{place}/{MARK}", b"")

    def is_saving_in_progress(self) -> bool:
        return self._saving is not None and not self._saving.has_ended

    def wait_until_finished(self) -> None:
        if self._saving is not None:
            self._saving.join()
        self._raise()

    def _raise(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def delete(self, step: int) -> None:
        if is_first():
            for name in sorted(self.bucket.below(f"{self._place}/{step}"), key=lambda name: MARK not in name):
                with suppress(FileNotFoundError):  # whose removal was done, and the answer lost
                    self.bucket.remove(name)
        self._steps.remove(step)

    def metadata(self, step: int) -> Metadata:
        return Metadata(json.loads(self.bucket.get(f"{self._place}/{step}/{METADATA}"))["custom_metadata"])

    def restore(self, step: int, args: Any) -> Any:
        shape = jax.tree.structure(args.item)
        with np.load(io.BytesIO(self.bucket.get(f"{self._place}/{step}/default/data"))) as found:
            return jax.tree.unflatten(shape, [found[f"arr_{number}"] for number in range(shape.num_leaves)])

    def close(self) -> None:
        self.wait_until_finished()

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
