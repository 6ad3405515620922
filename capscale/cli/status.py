"""The command that shows how far a sweep is, and what its weights tell."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.realised import Realised
    from capscale.sweep.status import FormatStatus


@dataclass
class Status:
    """Show what has been done of a sweep, and the device-hours spent and left.

    A format whose trained weights realise another error than its GMSE (by a factor of 1.3 or more), or whose gradient
    mask passes less than half of what it would pass of Gaussian weights, is named with both numbers. So is a run whose
    loss jumps.

    With --watch it looks again and again, until every run has a result or Ctrl-C. With --html it makes a page: curves
    of the loss, speed, starts, what was done again, failures. The page is a file that asks nothing of a network; with
    both it is made anew, and a browser that shows it reads it again.

    Examples:
      capscale status runs/demo
      capscale status runs/demo --watch 30 --html demo.html --price 1.2
    """

    directory: Annotated[str, tyro.conf.Positional]
    """The --out directory of a sweep."""
    json: bool = False
    """Print JSON: counts, device-hours, what weights tell by format, and runs with state and detail."""
    watch: float | None = None
    """Seconds between looks at the sweep, which is shown with speed, starts and jumps of the loss."""
    html: str | None = None
    """File for a page that shows the same, with the curves."""
    price: float | None = None
    """Dollars of a device-hour (that of a chip on TPUs), for what the sweep has cost and will cost."""

    def __call__(self) -> int:
        """Prints the counts, each run that is under way or needs a look, and each format that is not as it seems."""
        from etils import epath

        from capscale.cli.watching import View, look
        from capscale.files import printable
        from capscale.sweep.status import counts, device_hours, formats, read_status

        if any(option is not None for option in (self.watch, self.html, self.price)):
            if self.json:
                raise UserError("--json prints what is there once; leave out --watch, --html and --price")
            return look(View(self.directory, self.watch, self.html, self.price))
        statuses = read_status(epath.Path(self.directory))
        found, hours, told = counts(statuses), device_hours(statuses), formats(statuses)
        if self.json:
            content = {"counts": found, "device_hours": hours._asdict()}
            content["formats"] = [_of_format(each) for each in told]
            content["runs"] = [status._asdict() | {"realised": _numbers(status.realised)} for status in statuses]
            print(json.dumps(content, indent=1))
            return 0
        print(", ".join(f"{number} {state}" for state, number in found.items() if number))
        left = "unknown until a run is done" if hours.left is None else f"about {hours.left:.3g}"
        print(f"device-hours: {hours.spent:.3g} spent, {left} left")
        for status in statuses:
            jumped = f"; its loss jumps at step {', '.join(map(str, status.spikes[:8]))}" if status.spikes else ""
            if jumped or status.state not in ("done", "to do"):
                print(printable(f"{status.run_id} {status.state} {status.detail}{jumped}"))
        for each in told:
            if each.realised.words:
                runs = "1 run" if each.runs == 1 else f"{each.runs} runs"
                print(printable(f"{each.format}: {each.realised.words} ({runs})"))
        return 0


def _numbers(realised: "Realised") -> dict[str, float | None]:
    """As JSON has them: null in place of NaN."""
    return {name: value if math.isfinite(value) else None for name, value in realised._asdict().items()}


def _of_format(status: "FormatStatus") -> dict[str, object]:
    told = status.realised
    return {"format": status.format, "runs": status.runs, **_numbers(told), "words": told.words}
