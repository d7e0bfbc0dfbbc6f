"""The plot: how much of what is allowed each row takes, and what twice the data costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.results import GROWTH, TWICE, Target

MET, MISSED, DARK, GREY = "#2f7f8f", "#c8442f", "#222222", "#6b6b6b"


def draw(rows: list[Target], title: str, subtitle: str, path: Path) -> None:
    """Write the plot as a PNG. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")  # no screen
    from matplotlib import pyplot

    shares = [row for row in rows if row.section != TWICE]
    growth = [row for row in rows if row.section == TWICE]
    panels = [panel for panel in (shares, growth) if panel]
    heights = [len(panel) + 2.0 for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(11, 0.27 * sum(heights) + 1.2),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    figure.suptitle(f"{title}\n{subtitle}", x=0.01, ha="left", fontsize=10, color=DARK)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        if panel is shares:
            axis.set_xscale("log")
            _bars(axis, panel, [row.value / row.limit for row in panel], 1.0)
            axis.set_title("Share of what is allowed", loc="left", fontsize=11, color=DARK)
            axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=None))
        else:
            _bars(axis, panel, [row.value for row in panel], GROWTH)
            axis.set_title("Time for twice the data", loc="left", fontsize=11, color=DARK)
            axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g x"))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _bars(axis: Any, rows: list[Target], values: list[float], limit: float) -> None:
    """Draw a bar for each row, the first on top, and the limit as a line."""
    colours = [MET if row.is_met else MISSED for row in rows]
    is_log = axis.get_xscale() == "log"
    left = min([*values, limit]) / 3 if is_log else 0.0
    right = max([*values, limit]) * (8 if is_log else 1.45)
    places = range(len(rows))
    axis.barh(places, [value - left for value in values], left=left, color=colours, height=0.68)
    axis.axvline(limit, color=DARK, linewidth=1.1)
    for place, row, value in zip(places, rows, values, strict=True):
        words = f"{row.reached}  ({row.must_reach})"
        axis.annotate(
            words if row.is_met else f"{words}  MISSED",
            (value, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=GREY if row.is_met else MISSED,
            # The limit's line must not run through the words.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axis.set_yticks(list(places), [row.what for row in rows], fontsize=9, color=DARK)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(left, right)
    axis.tick_params(axis="both", length=0, colors=GREY, labelsize=9)
    axis.tick_params(axis="y", colors=DARK)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
