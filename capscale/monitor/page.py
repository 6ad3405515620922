"""The page of a sweep: made of its files, whole in itself, and made anew as often as one likes."""

from collections.abc import Sequence

from capscale.analysis.inline_svg import inline_svg
from capscale.analysis.report import environment
from capscale.monitor.curves import PANELS, loss_curves, sizes
from capscale.sweep.history import RunHistory, totals
from capscale.sweep.jumps import BEFORE, DEVIATIONS, SHARE
from capscale.sweep.status import DeviceHours, counts, device_hours

ORDER = ("failed", "damaged", "diverged", "running", "started", "stopped early", "done", "to do")
"""States as a page lists them: what needs a look comes first."""


def page(
    histories: Sequence[RunHistory], directory: str, made_at: str, price: float | None, every_s: float | None
) -> str:
    """The page as HTML.

    Args:
      histories: the sweep's runs.
      directory: of the sweep, for its title.
      made_at: when the files were read.
      price: of a device-hour, in dollars.
      every_s: seconds after which whoever looks at it reads the page again.
    """
    statuses = [each.status for each in histories]
    figure = loss_curves(histories)
    return (
        environment("capscale.monitor")
        .get_template("page.html")
        .render(
            directory=directory,
            made_at=made_at,
            every_s=every_s,
            counts={state: number for state, number in counts(statuses).items() if number},
            totals=totals(histories),
            facts=facts(histories, device_hours(statuses), price),
            curves=None if figure is None else inline_svg(figure, "curves", curves_alt(histories)),
            left_out=sizes(histories)[PANELS:],
            runs=sorted(histories, key=lambda each: ORDER.index(each.status.state)),
            before=BEFORE,
            deviations=DEVIATIONS,
            share=SHARE,
            needing=[each for each in histories if each.status.state in ("failed", "damaged") or each.spikes],
        )
    )


def curves_alt(histories: Sequence[RunHistory]) -> str:
    """The curves in words."""
    last = [curve[-1] for curve in (each.curve for each in histories) if curve and curve[-1][1] is not None]
    if not last:
        return "Loss curves: none yet"
    lowest = min(loss for _, loss in last if loss is not None)
    return f"Loss curves of {len(last)} runs; the lowest latest loss is {lowest:.3f}"


def facts(histories: Sequence[RunHistory], hours: DeviceHours, price: float | None) -> list[tuple[str, str]]:
    """Numbers of the whole sweep, each with its name."""
    found = totals(histories)
    all_h = found.device_h + found.again_h

    def cost(value: float) -> str:
        return "" if price is None else f" (${price * value:,.2f})"

    left = "unknown until a run is done" if hours.left is None else f"about {hours.left:.3g}{cost(hours.left)}"
    told: list[tuple[str, str]] = [
        ("runs that are over", f"{found.done} of {found.runs}"),
        ("device-hours spent", f"{all_h:.3g}{cost(all_h)}"),
        ("device-hours left", left),
        ("goodput", "–" if found.goodput is None else f"{found.goodput:.1%} of them behind steps that count"),
        ("done again", f"{found.again_h:.3g} device-hours{cost(found.again_h)}"),
        ("starts", f"{found.starts}, {found.retries} of them again"),
    ]
    if found.tokens_per_s:
        told.append(("speed now", f"{found.tokens_per_s:,.0f} tokens/s"))
    jumps = sum(len(each.spikes) for each in histories)
    return [*told, ("jumps of the loss", str(jumps))]
