"""The picture of costs: losses of policies less those of dense models, seed by seed, against tokens per parameter."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from capscale.analysis.contrasts import losses_of
from capscale.analysis.evidence import Evidence
from capscale.policy import Frozen
from capscale.representation import DENSE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cost_figure(evidence: Evidence, parts: Mapping[str, Mapping[str, Frozen]], size: float) -> "Figure":
    """A panel for each part: lines through the means of the seeds, a mark for every seed.

    Args:
      evidence: rows with seeds, dense ones among them.
      parts: policies by their names, by the titles of the panels; a name looks alike in all panels.
      size: N of the models that are drawn.
    """
    from capscale.analysis import panels

    losses = losses_of(evidence)
    dense = losses[evidence.curve(DENSE)]
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    drawn, every = panels.panels(1, len(parts), height=3.4)
    for axes, (title, part) in zip(every, parts.items(), strict=True):
        for name, policy in part.items():
            look, cells = panels.style(names.index(name)), losses[evidence.curve(policy)]
            costs = {
                D / N: [seeds[seed] - dense[N, D][seed] for seed in seeds if seed in dense[N, D]]
                for (N, D), seeds in sorted(cells.items())
                if size == N
            }
            axes.plot(list(costs), [np.mean(each) for each in costs.values()], color=look.color, label=name, zorder=3)
            for ratio, each in costs.items():
                axes.plot([ratio] * len(each), each, look.marker, color=look.color, markersize=3, zorder=2)
        axes.axhline(0.0, color="#222222", linewidth=0.8, zorder=1)
        ratios = sorted({round(D / N) for N, D in dense if size == N})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ratios, [str(ratio) for ratio in ratios])
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("tokens per parameter", fontsize=9)
    every[0].set_ylabel("loss less dense, nats", fontsize=9)
    low, high = min(axes.get_ylim()[0] for axes in every), max(axes.get_ylim()[1] for axes in every)
    for axes in every:
        axes.set_ylim(low, high)
    panels.shared_key(drawn)
    return drawn
