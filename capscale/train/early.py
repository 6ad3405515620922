"""A run that is stopped early, as it could not win: who judges it, and what it leaves behind."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from etils import epath

from capscale.artifacts import STOPPED, sealed
from capscale.files import write_json, writing
from capscale.train.distributed import all_or_none, any_process, is_first
from capscale.train.run import Run

SCHEMA = 1
"""Version of the fields of stopped.json."""
LINES = 40
"""Lines of metrics that a run has at least which is judged, for its losses to be told apart by step."""


class Lost(NamedTuple):
    """Reason to stop a run.

    Attributes:
      step: at which it was compared.
      steps: of the whole run.
      loss: of training there, in nats per token, a mean over the steps before.
      against: id of the finished run that it was held against.
      against_loss: of that run, over the same steps.
      gained: what that run's loss has fallen by from there to its end.
      factor: how many times as much the run was behind, at least, to be stopped.
    """

    step: int
    steps: int
    loss: float
    against: str
    against_loss: float
    gained: float
    factor: float

    @property
    def words(self) -> str:
        """The reason as a sentence."""
        return (
            f"stopped early at step {self.step} of {self.steps}: its loss of {self.loss:.4f} there is "
            f"{self.loss - self.against_loss:.4f} above that of run {self.against}, and from there to its end that one "
            f"has gained {self.gained:.4f}, of which {self.factor:.2g} times is the most that is made up for"
        )


class Judge(Protocol):
    """Judges one run in the midst of its training, from what was published."""

    def is_due(self, step: int) -> bool:
        """Whether a look is due at a step that was done; the same in all processes that train the run."""
        ...

    def look(self) -> Lost | None:
        """The reason to stop, None to go on."""
        ...


def judged(judge: Judge | None, step: int, publish: Callable[[], None]) -> tuple[bool, Lost | None]:
    """Whether to stop at a step, and the reason, which the first process alone knows of several.

    Args:
      judge: of the run; None where none is stopped.
      step: that was done.
      publish: stores the run's own metrics up to it.
    """
    if judge is None or not judge.is_due(step):
        return False, None
    lost = None
    with all_or_none():
        if is_first():
            publish()
            lost = judge.look()
    return any_process(lost is not None)[0], lost


def write_stopped(directories: Sequence[epath.Path], runs: Sequence[Run], lost: Lost | None) -> None:
    """Says in directories of runs that they were stopped, and why, in the process that knows; checkpoints are there."""
    with all_or_none():
        for directory, run in zip(directories, runs, strict=True):
            if lost is None:
                break
            content = {"schema": SCHEMA, "run_id": run.run_id, **lost._asdict(), "words": lost.words}
            write_json(directory / STOPPED, sealed(content))


def forget_stopped(directories: Sequence[epath.Path]) -> None:
    """Runs go on, and are none that were stopped any more."""
    with all_or_none():
        for directory in directories if is_first() else ():
            with writing(directory):
                (directory / STOPPED).unlink(missing_ok=True)
