"""The windows of each chunk of steps, read while the chunk before is trained."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from capscale.data.source import Source
from capscale.train.run import Run


class BatchPrefetcher:
    """Windows padded to chunks of one length, so that all share a compilation; a context manager.

    Args:
      runs: runs of one length, side by side.
      source: their text.
      length: steps of a chunk.
      rows: those of the global batch that this process feeds its devices with.
    """

    def __init__(self, runs: list[Run], source: Source, length: int, rows: slice):
        self._runs, self._source, self._length, self._rows = runs, source, length, rows
        self._ahead: dict[int, Future[np.ndarray]] = {}
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="windows")

    def __enter__(self) -> "BatchPrefetcher":
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def at(self, step: int) -> tuple[int, np.ndarray]:
        """Steps in the chunk that begins at `step`, and every run's windows, `(R, S, rows, U)`; reads on behind."""
        count = self._count(step)
        windows = self._ahead.pop(step, None) or self._reader.submit(self._read, step)
        if self._count(step + count) > 0:
            self._ahead = {step + count: self._reader.submit(self._read, step + count)}
        return count, windows.result()

    def _count(self, step: int) -> int:
        return min(self._length, self._runs[0].steps - step)

    def _read(self, step: int) -> np.ndarray:
        count = self._count(step)
        read = [
            self._source.batches(run.model.context, run.batch, run.seed, step, count, rows=self._rows)
            for run in self._runs
        ]
        # Two at least: of one, compilers drop the axis, and round differently what it stood in.
        return np.pad(np.stack(read), ((0, 0), (0, max(self._length, 2) - count), (0, 0), (0, 0)))
