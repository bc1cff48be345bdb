"""Pictures of the results: every ratio against its target, and how each cost grows."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

_OURS, _TARGET, _MISSED = "#2a6f97", "#8d99ae", "#c8553d"


def draw(results: Path) -> None:
    """Write `ratios.svg` from `latest.json` and `growth.svg` from `growth/*.json`, all in `results`."""
    mpl.rcParams["svg.hashsalt"] = "millstream"  # the same figures give the same file
    latest = json.loads((results / "latest.json").read_text())
    _ratios(
        [r for r in latest if r["ratio"] is not None and r["target"].startswith("ratio")],
        results / "ratios.svg",
    )
    curves = [json.loads(p.read_text()) for p in sorted((results / "growth").glob("*.json"))]
    if curves:
        _growth(curves, results / "growth.svg")


def _ratios(found: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(found) + 1.2), layout="constrained")
    names = [f"{r['name']}  (vs. {r['reference']})" for r in found][::-1]
    ratios = [r["ratio"] for r in found][::-1]
    colours = [_OURS if r["met"] else _MISSED for r in found][::-1]
    axes.barh(names, ratios, color=colours, height=0.6)
    for place, r in enumerate(found[::-1]):
        target = float(r["target"].split()[-1])
        axes.plot([target] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2)
        axes.annotate(f"  {r['ratio']:.1f}x", (max(r["ratio"], target), place), va="center", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.axvline(1, color=_TARGET, linewidth=1)
    axes.set_xlabel(
        "times better than the reference in the same run\n(log scale; black: the target, red: missed)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _growth(curves: list[dict[str, Any]], path: Path) -> None:
    columns = 3
    rows = -(-len(curves) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(11, 2.9 * rows), layout="constrained", squeeze=False)
    for axes, curve in zip(grid.flat, curves, strict=False):
        for label, points in curve["series"].items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        every = [x for points in curve["series"].values() for x, _ in points]
        if min(every) > 0 and max(every) / min(every) > 20:
            axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(textwrap.fill(curve["title"], 42), fontsize=9)
        axes.set_xlabel(curve["x_label"], fontsize=8)
        axes.set_ylabel(curve["y_label"], fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if len(curve["series"]) > 1:
            axes.legend(fontsize=7, frameon=False)
    for axes in list(grid.flat)[len(curves) :]:
        axes.remove()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
