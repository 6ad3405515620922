"""Where metrics are shown besides metrics.jsonl: TensorBoard and Weights & Biases, for who has installed them."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from etils import epath

from capscale.errors import UserError
from capscale.files import refuse_link
from capscale.storage import is_object_storage
from capscale.train.run import Run, described


class Board(Protocol):
    """Shows the metrics of one run."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Metrics of the chunk of steps that ended at `step`; values are finite."""
        ...

    def close(self) -> None:
        """Called at the end, however the run ended."""
        ...


OpenBoard = Callable[[Run, epath.Path, int], Board]
"""Board of a run with that directory, from that step on."""


class TensorBoard:
    """Event files in `tensorboard/` of the run's directory, for `tensorboard --logdir`."""

    def __init__(self, run: Run, directory: epath.Path, first_step: int):
        module = _package("tensorboardX", "tensorboard")
        refuse_link(directory / "tensorboard")
        # Events of steps that are done again are hidden behind the new ones.
        self._writer = module.SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Of `Board`, for this service."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Of `Board`, for this service."""
        self._writer.close()


class WandB:
    """A run of a Weights & Biases project, under the run's own id, so that a resumed run goes on there."""

    def __init__(self, project: str, run: Run, directory: epath.Path):
        module = _package("wandb", "wandb")
        refuse_link(directory / "wandb")
        self._run = module.init(
            project=project,
            id=run.run_id,
            config=described(run),
            dir=None if is_object_storage(directory) else str(directory),  # its own files are local ones
            resume="allow",
            reinit="create_new",
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Of `Board`, for this service."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Of `Board`, for this service."""
        self._run.finish()


def open_tensorboard() -> OpenBoard:
    """Boards for TensorBoard; `UserError` where its package is missing, before anything is trained."""
    _package("tensorboardX", "tensorboard")
    return TensorBoard


def open_wandb(project: str) -> OpenBoard:
    """Boards of a Weights & Biases project; `UserError` where its package is missing, before anything is trained."""
    _package("wandb", "wandb")
    return lambda run, directory, _: WandB(project, run, directory)


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"package {name} is not installed; pip install 'capscale[{extra}]'") from error
