"""The picture of a table of rises: rise against GMSE by kind, and its slope against tokens by size."""

from typing import TYPE_CHECKING

import numpy as np

from capscale.analysis.rises.fit import RiseFit
from capscale.analysis.rises.held_out import is_clear
from capscale.analysis.rises.table import asked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def rise_figure(fit: RiseFit) -> "Figure":
    """Rises of the middle of the table's sizes and lengths, and rise over GMSE of all clear ones, with the law's lines.

    Args:
      fit: of the law that is in proportion to GMSE.
    """
    from capscale.analysis import panels

    drawn, (left, right) = panels.panels(1, 2, height=3.7)
    _against_error(left, fit)
    _against_tokens(right, fit)
    return drawn


def _against_error(axes: "Axes", fit: RiseFit) -> None:
    from capscale.analysis import panels

    rises = fit.rises
    clear = rises.only(is_clear(rises, fit.noise))
    # Every rise over what the law says of N and D alone, so that runs of all cells lie on one line.
    common = np.exp(fit.log_rise(clear)[0]) / clear.gmse / fit.slope.estimate
    for k, kind in enumerate(sorted(set(clear.kind))):
        mine, look = np.array(clear.kind) == kind, panels.style(k)
        points = axes.plot(clear.gmse[mine], (clear.rise / common)[mine], look.marker, color=look.color, label=kind)
        points[0].set(markersize=2.6, alpha=0.5, markeredgewidth=0, zorder=2)
    ends = np.array([clear.gmse.min() / 1.3, clear.gmse.max() * 1.3])
    axes.plot(ends, fit.slope.estimate * ends, color="#222222", linewidth=1.2, label="in proportion", zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(panels.GMSE_WORDS, fontsize=9)
    axes.set_ylabel("rise of the loss, at the middle N and D, nats", fontsize=9)
    panels.key(axes, "upper left")


def _against_tokens(axes: "Axes", fit: RiseFit) -> None:
    from capscale.analysis import panels

    rises = fit.rises
    clear = rises.only(is_clear(rises, fit.noise))
    for k, N in enumerate(np.unique(clear.N)):
        look = panels.style(k)
        tokens = np.unique(clear.D[clear.N == N])
        ratios = [np.log((clear.rise / clear.gmse)[(clear.N == N) & (clear.D == D)]) for D in tokens]
        axes.plot(tokens, [float(np.exp(each.mean())) for each in ratios], look.marker, color=look.color, markersize=5,
                  label=f"N = {N:,.0f}", zorder=3)  # fmt: skip
        line = np.exp(fit.log_rise(asked(np.full(len(tokens), N), tokens, 1.0))[0])
        axes.plot(tokens, line, color=look.color, linewidth=1, zorder=2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training tokens D", fontsize=9)
    axes.set_ylabel("rise / GMSE, nats", fontsize=9)
    panels.key(axes, "upper left")
