"""The plot: how much of what is allowed each row takes, and what twice the data costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.results import TWICE, Target

MET, MISSED, DARK, GREY = "#2f7f8f", "#c8442f", "#222222", "#6b6b6b"
ROW_INCHES, TITLE_ROWS = 0.25, 2.6


def draw(rows: list[Target], title: str, subtitle: str, path: Path) -> None:
    """Write the plot as a PNG. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")  # no screen
    from matplotlib import pyplot

    panels = [(name, list(group)) for name, group in groupby(rows, lambda row: row.section)]
    heights = [len(panel) + TITLE_ROWS for _, panel in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(11, ROW_INCHES * sum(heights) + 0.7),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    figure.suptitle(f"{title}\n{subtitle}", x=0.01, ha="left", fontsize=10, color=DARK)
    shares = finite(share(row) for row in rows if row.section != TWICE)
    for axis, (section, panel) in zip(axes[:, 0], panels, strict=True):
        if section == TWICE:
            heading = "Twice the data: time as a multiple of that for half"
            limit = panel[0].limit
            _rows(axis, panel, [row.value for row in panel], limit)
            axis.set_xlim(0, 1.1 * max([limit, *finite(row.value for row in panel)]))
            axis.xaxis.set_major_formatter("{x:g} x")
        else:
            heading = f"{section.capitalize()}: share of what is allowed"
            axis.set_xscale("log")
            _rows(axis, panel, [share(row) for row in panel], 1.0)
            axis.set_xlim(min([0.1, *shares]) / 1.3, max([2.0, *shares]) * 1.3)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.set_title(heading, loc="left", fontsize=10, fontweight="bold", color=DARK)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def share(row: Target) -> float:
    """Return the part of its limit that a row takes."""
    return row.value / row.limit


def finite(values: Iterable[float]) -> list[float]:
    """Return what can be drawn: not what the timeout has ended."""
    return [value for value in values if math.isfinite(value)]


def _rows(axis: Any, rows: list[Target], values: list[float], limit: float) -> None:
    """Draw a row each, the first on top: from the limit to the value, and in words beside it."""
    places = range(len(rows))
    for place, row, value in zip(places, rows, values, strict=True):
        colour = MET if row.is_met else MISSED
        if math.isfinite(value):
            axis.plot([limit, value], [place, place], color=colour, linewidth=2, alpha=0.45)
            axis.plot([value], [place], "o", color=colour, markersize=7)
        axis.text(
            1.015,
            place,
            f"{row.reached}  ({row.must_reach})" + ("" if row.is_met else "  MISSED"),
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=GREY if row.is_met else MISSED,
        )
    axis.axvline(limit, color=DARK, linewidth=1.1)
    axis.set_yticks(list(places), [row.what for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(length=0, labelsize=9, colors=GREY)
    axis.tick_params(axis="y", labelcolor=DARK)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
