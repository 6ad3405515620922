"""capscale preflight: what a sweep needs on a TPU slice, before there is one."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import tyro

from capscale.cli.memory_options import HowMemory, memory_of
from capscale.cli.preflight_table import HEAD, line, row_of
from capscale.cli.selecting import LadderName, Selecting, planned, read_text
from capscale.cli.waiting import waiting
from capscale.errors import UserError
from capscale.train.memory import Gather

if TYPE_CHECKING:
    from capscale.data.corpus import DataId
    from capscale.sweep.choosing import Checked
    from capscale.sweep.plan import Sweep
    from capscale.sweep.preflight import Setting
    from capscale.sweep.selection import Selection

DOES_NOT_FIT = 1
"""Exit status when a run needs more memory than a device has."""


@dataclass(kw_only=True)
class Preflight(Selecting):
    """Compile every distinct train step of a sweep for a TPU slice, on this machine, and tell what it needs.

    Nothing is trained and no text is read but to count its vocabulary. Exit status 1 when a run does not fit.

    Examples:
      capscale preflight paper_capacity --ladder paper --topology v5e:4x4 --vocabulary 32000
      capscale preflight paper_capacity --ladder paper --topology v6e:2x2 --vocabulary 32000 --sizes 30M 50M --fsdp 4
    """

    experiment: Annotated[str, tyro.conf.Positional]
    """Name of an experiment, or the path of a .py file that defines runs(ladder, data)."""
    topology: str
    """The slice: v4, v5e, v5p or v6e and its shape, such as v5e:4x4 or v5p:2x2x2."""
    slices: int = 1
    """How many of them train each run together, each a part of every batch."""
    ladder: LadderName = "nano"
    text: str | None = None
    """Text that the sweep will train on, for its vocabulary; see --vocabulary."""
    vocabulary: int | None = None
    """Symbols of the text, where it is not at hand; --text is not read then."""
    fsdp: int = 1
    """Devices that share one copy of the parameters."""
    microbatches: int = 1
    """Parts of a batch that are done one after the other."""
    remat: bool = False
    """Compute each layer anew in the backward pass."""
    gather: Gather = "layer"
    """With --fsdp: send weights for each layer of each micro-batch, or once a step, which takes the memory of all."""
    unroll: bool = False
    """Write all layers out in place of a loop over one: faster steps, which take several times as long to compile."""
    memory: HowMemory = "given"
    """By auto a program is compiled all at once or, where that does not fit, with what does and is estimated best."""
    out: str | None = None
    """With --memory auto: directory of the sweep, where the settings are kept for `--memory auto` of the workers."""
    mfu: float | None = None
    """Share of the chips' peak that training is taken to reach, where you have measured it; else it is estimated."""
    quick: bool = False
    """Compile at XLA's lowest effort: several times faster, and often asking for more memory than training does; times
    are estimated more roughly, from the operations and bytes of what was compiled."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Compiles, prints a line a program and the totals."""
        from etils import epath

        from capscale.sweep.choosing import check
        from capscale.sweep.fitting import keep
        from capscale.sweep.preflight import Setting
        from capscale.sweep.slices import find_slice

        if self.out is not None and (self.memory != "auto" or self.quick):
            raise UserError(
                f"--out {self.out} keeps what --memory auto finds of programs that are run: give --memory auto, and "
                "leave out --quick"
            )
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise UserError(f"--mfu {self.mfu} must lie in (0, 1]")
        setting = Setting(find_slice(self.topology, self.slices), self.fsdp, memory_of(self))
        runs = list(plan_for(self, self.text, self.vocabulary).runs)
        if not self.json:
            print(HEAD)

        def tell(checked: "Checked") -> None:
            if not self.json:
                print(line(self._row(checked), chosen=self.memory == "auto"))
            if self.out is not None and checked.compiled.fits:
                keep(checked.runs[0], checked.setting, checked.compiled, epath.Path(self.out))

        found = check(runs, setting, quick=self.quick, tell=tell, during=waiting, choose=self.memory == "auto")
        return self._conclude(found, setting)

    def _row(self, checked: "Checked") -> dict[str, Any]:
        from capscale.sweep.slices import find_slice

        return row_of(checked, find_slice(self.topology, self.slices), self.mfu)

    def _conclude(self, found: "list[Checked]", setting: "Setting") -> int:
        from capscale.sweep.choosing import larger_slice, remedy
        from capscale.sweep.slices import find_slice

        rows = [self._row(checked) for checked in found]
        runs = [run for row in rows for run in row["runs"]]
        known = [run["device_hours"] for run in runs if run["device_hours"] is not None]
        hours = sum(known) if len(known) == len(runs) else None
        refused = [checked for checked in found if not checked.compiled.fits]
        advice = None
        if refused:
            worst = max(refused, key=lambda checked: checked.compiled.bytes)
            with waiting("looking for what fits"):
                if self.memory == "auto":  # on this slice everything was tried
                    better = larger_slice(worst.runs[0], setting, self.quick)
                else:
                    better = remedy(worst.runs[0], worst.compiled, setting, self.quick)
            advice = {
                "for": self._row(worst)["name"],
                "use": str(better[0]) if better else None,
                "bytes_per_device": better[1].bytes if better else None,
            }
        if self.json:
            total = {"runs": len(runs), "flops": sum(run["flops"] for run in runs), "device_hours": hours}
            where = {
                "setting": str(setting),
                "mfu": self.mfu,
                "peak_flops_per_chip": find_slice(self.topology).chip.peak,
            }
            print(json.dumps(where | {"programs": rows, "total": total, "remedy": advice}, indent=1))
            return DOES_NOT_FIT if refused else 0
        print(f"{len(runs)} runs, {len(rows)} programs: {self._told(hours)}")
        if not self.quick and any(row["estimate"] and row["estimate"]["kernels_by"] == "bytes" for row in rows):
            print(
                "kernels are counted by their bytes alone, as libtpu was loaded before it could be asked for schedules"
            )
        if advice:
            print(f"{len(refused)} of {len(rows)} programs do not fit: {refused[0].compiled.reason or 'see above'}")
            print(
                f"{advice['for']} fits with {advice['use']} ({advice['bytes_per_device'] / 1e9:.2f} GB)"
                if advice["use"]
                else f"nothing tried makes {advice['for']} fit; use chips with more memory, such as v5p"
            )
        return DOES_NOT_FIT if refused else 0

    def _told(self, hours: float | None) -> str:
        """The total, and what it rests on."""
        from capscale.sweep.estimate import BEYOND, QUICK_ERROR
        from capscale.sweep.slices import find_slice

        slice_ = find_slice(self.topology, self.slices)
        chip = slice_.chip
        if hours is None:
            return "chip-hours are not known without an estimate of every step; find a setting that fits, or give --mfu"
        total = f"{hours:,.0f} chip-hours, {hours / slice_.chips:,.0f} hours of {slice_.name}"
        between = f", {chip.network / 1e9:.3g} GB/s of each between slices" if self.slices > 1 else ""
        if self.mfu is not None:
            return f"{total}, at {self.mfu:.0%} of {chip.peak / 1e12:.0f} TFLOP/s a chip"
        by = (
            f"{BEYOND} times what products take at {chip.peak / 1e12:.0f} TFLOP/s and bytes at "
            f"{chip.bandwidth / 1e9:.0f} GB/s, kernels by their bytes ({QUICK_ERROR})"
            if self.quick
            else f"XLA's cycles and kernels' schedules at {chip.clock / 1e9:.2f} GHz"
        )
        return (
            f"{total}. Times are estimates that no chip was asked for: {by}, {chip.wire / 1e9:.0f} GB/s between "
            f"chips{between}; none was held against a TPU yet"
        )


class Planned(Protocol):
    """Options of a command that plans a sweep."""

    experiment: str
    ladder: str

    @property
    def selection(self) -> "Selection":
        """Which of its runs."""
        ...


def plan_for(asked: Planned, text: str | None, vocabulary: int | None) -> "Sweep":
    """The runs that a command is about, on the text at a path, or on one of so many symbols that is not at hand."""
    from capscale.sweep.plan import plan

    if vocabulary is None:
        return planned(asked.experiment, asked.ladder, asked.selection, text)[0]
    return plan(asked.experiment, asked.ladder, data_id(text, vocabulary), asked.selection)


def data_id(text: str | None, vocabulary: int | None) -> "DataId":
    """The text at a path, or one of so many symbols that is not at hand; enough to plan with."""
    from capscale.data.corpus import DataId

    if vocabulary is None:
        return read_text(text).id
    if vocabulary < 1:
        raise UserError(f"--vocabulary {vocabulary} must be positive")
    return DataId(f"{vocabulary} symbols", "0" * 64, vocabulary)
