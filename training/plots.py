"""The plots of the report as SVG; all show the test days, unless a title says otherwise.

Text stays text (in the font of the page, searchable), curves are thinned to the resolution of a screen, and equal
numbers give equal bytes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from training.evaluate import FPR, Estimate, Ranking
from training.threshold import Thresholds

Floats = npt.NDArray[np.float64]
Targets = npt.NDArray[np.uint8]

INK, MUTED, GRID = "#1c2733", "#66758a", "#e6eaf0"
MODEL, HONEST, FRAUD = "#2456c9", "#8fa3bd", "#d6453d"
REVIEW, DECLINE = "#d98e04", "#d6453d"
OTHERS: Final = ("#7a8aa0", "#b59a5b", "#6b9080")
_POINTS: Final = 400

_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "millstream",
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": "#c3ccd8",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.9,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.framealpha": 0.88,
    "legend.edgecolor": "none",
    "legend.facecolor": "white",
    "lines.linewidth": 2.2,
}


def precision_recall(
    rankings: Mapping[str, Ranking], marks: Mapping[str, float], *, title: str = "Precision and recall"
) -> str:
    """Plot precision over recall per model; `marks` (name -> threshold) are dots on the first curve."""

    def paint(axes: Axes) -> None:
        for (name, ranking), colour in zip(rankings.items(), (MODEL, *OTHERS), strict=False):
            caught, alarms = ranking.counts()
            recall, precision = caught / caught[-1], caught / (caught + alarms)
            keep = _thin(recall)
            axes.plot(
                recall[keep], precision[keep], color=colour, label=name, zorder=3 if colour == MODEL else 2
            )
        first = next(iter(rankings.values()))
        caught, alarms = first.counts()
        for (name, threshold), colour in zip(marks.items(), (REVIEW, DECLINE), strict=False):
            above = int(np.searchsorted(-first.thresholds, -threshold, side="right"))
            if above:
                x, y = (
                    caught[above - 1] / caught[-1],
                    caught[above - 1] / (caught[above - 1] + alarms[above - 1]),
                )
                axes.plot(
                    x, y, "o", color=colour, markersize=8, markeredgecolor="white", zorder=5, label=name
                )
        axes.set(
            xlabel="share of frauds found (recall)",
            ylabel="share of flagged that are fraud (precision)",
        )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.03))
        _percent(axes, "both")

    return _draw(paint, title, legend_below=True)


def calibration(target: Targets, score: Floats) -> str:
    """Plot the share of fraud over the mean score per score bin, with Wilson intervals (reliability diagram)."""

    def paint(axes: Axes) -> None:
        low = 1e-4
        edges = np.concatenate([[0.0], np.geomspace(low, 0.3, 10), [0.5, 0.7, 0.9, 1.0 + 1e-9]])
        place = np.digitize(score, edges) - 1
        axes.plot(
            [low, 1], [low, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 4)), label="score = probability"
        )
        for i in range(len(edges) - 1):
            inside = place == i
            n, frauds = int(inside.sum()), int(target[inside].sum())
            if n < 10:
                continue
            x, y = max(float(score[inside].mean()), low), frauds / n
            below, above = _wilson(frauds, n)
            axes.plot([x, x], [max(below, low), above], color=MODEL, linewidth=1.4, alpha=0.5)
            axes.plot(x, max(y, low), "o", color=MODEL, markersize=6.5, markeredgecolor="white")
        axes.set(xscale="log", yscale="log", xlabel="mean score", ylabel="share of fraud")
        axes.set(xlim=(low * 0.8, 1.25), ylim=(low * 0.8, 1.25))
        _percent(axes, "both")
        axes.legend(loc="upper left")

    return _draw(paint, "Calibration")


def score_distribution(target: Targets, score: Floats, thresholds: Thresholds) -> str:
    """Plot histograms of the scores of honest and fraudulent payments: logistic x axis, logarithmic y axis."""

    def paint(axes: Axes) -> None:
        logit = np.clip(_logit(score), -12, 12)
        bins = np.linspace(max(-12.0, float(logit.min())), min(12.0, float(logit.max())), 56).tolist()
        axes.hist(logit[target == 0], bins, color=HONEST, alpha=0.75, label="honest")
        axes.hist(logit[target == 1], bins, color=FRAUD, alpha=0.75, label="fraud")
        axes.set_yscale("log")
        for name, value, colour in (
            ("review", thresholds.review, REVIEW),
            ("decline", thresholds.decline, DECLINE),
        ):
            at = float(np.clip(_logit(np.array([value]))[0], -12, 12))
            axes.axvline(
                at, color=colour, linewidth=1.6, linestyle=(0, (4, 3)), label=f"{name} from {value:.3g}"
            )
        wanted = np.array([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
        shown = [w for w in wanted if bins[0] <= _logit(np.array([w]))[0] <= bins[-1]]
        axes.set_xticks(_logit(np.array(shown)), [f"{w * 100:.6g}%" for w in shown])
        axes.set(xlabel="score", ylabel="payments")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        axes.set_ylim(0.7, axes.get_ylim()[1] * 8)  # room for the legend
        axes.legend(loc="upper right", ncols=2)

    return _draw(paint, "Scores")


def importance(shares: Sequence[tuple[str, float]]) -> str:
    """Plot (feature, share of the total gain) as bars, the largest first."""

    def paint(axes: Axes) -> None:
        names, values = [name for name, _ in shares][::-1], [value for _, value in shares][::-1]
        axes.barh(names, values, color=MODEL, height=0.66)
        for place, value in enumerate(values):
            axes.text(value, place, f" {value * 100:.1f}%", va="center", color=MUTED, fontsize=9)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set(xticks=[], xlim=(0, max(values) * 1.12))
        axes.tick_params(axis="y", labelsize=9.5, labelcolor=INK)

    return _draw(paint, "Feature importance", size=(11.4, 0.9 + 0.27 * len(shares)))


def amount_caught(
    target: Targets, amount: Floats, scores: Mapping[str, Floats], *, days: float, flagged_per_day: float
) -> str:
    """Plot the share of the fraud amount that is in the n highest-scored payments per day, over n."""

    def paint(axes: Axes) -> None:
        stolen = amount * target
        for (name, score), colour in zip(scores.items(), (MODEL, *OTHERS), strict=False):
            order = np.argsort(-score, kind="stable")
            ends = np.concatenate([np.flatnonzero(np.diff(score[order])), [len(order) - 1]])
            per_day = (ends + 1) / days
            share = np.cumsum(stolen[order])[ends] / stolen.sum()
            keep = _thin(np.log(per_day))
            axes.plot(
                per_day[keep], share[keep], color=colour, label=name, zorder=3 if colour == MODEL else 2
            )
        if flagged_per_day > 0:
            axes.axvline(
                flagged_per_day, color=REVIEW, linewidth=1.6, linestyle=(0, (4, 3)), label="flagged now"
            )
        axes.set(
            xscale="log",
            xlabel="payments flagged per day",
            ylabel="share of the fraud amount",
            ylim=(-0.02, 1.03),
        )
        axes.set_xlim(left=max(1.0, 1 / days))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="lower right")

    return _draw(paint, "Fraud amount caught")


def recall_by_kind(rankings: Mapping[str, Ranking]) -> str:
    """Plot the recall of each type of fraud over the share of honest payments flagged."""

    def paint(axes: Axes) -> None:
        for (kind, ranking), colour in zip(
            rankings.items(), (MODEL, REVIEW, "#2e8b57", *OTHERS), strict=False
        ):
            caught, alarms = ranking.counts()
            rate, found = alarms / alarms[-1], caught / caught[-1]
            rate, found = np.concatenate([[1e-9], rate]), np.concatenate([[0.0], found])
            axes.step(np.maximum(rate, 1e-4), found, where="post", color=colour, label=kind)
        axes.axvline(FPR, color=MUTED, linewidth=1.2, linestyle=(0, (4, 4)))
        axes.set(xscale="log", xlim=(1e-4, 1), ylim=(-0.02, 1.03))
        axes.set(xlabel="share of honest payments flagged", ylabel="share of frauds found (recall)")
        _percent(axes, "both")
        axes.legend(loc="lower right")

    return _draw(paint, "Recall by type of fraud")


def cost_curve(review: Floats, cost_per_day: Floats, chosen: float, *, approve_all: float) -> str:
    """Plot the cost per day on the validation days over the review threshold; the decline threshold is fixed."""

    def paint(axes: Axes) -> None:
        axes.plot(review, cost_per_day, color=MODEL, label="cost per day")
        axes.axhline(
            approve_all, color=MUTED, linewidth=1.2, linestyle=(0, (4, 4)), label="approving all payments"
        )
        axes.axvline(chosen, color=REVIEW, linewidth=1.6, linestyle=(0, (4, 3)), label="chosen")
        axes.set(xscale="log", yscale="log", xlabel="review threshold", ylabel="cost per day")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x * 100:.6g}%"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda _, __: ""))
        axes.legend(loc="best")

    return _draw(paint, "Cost of the review threshold (validation)")


def bars(estimates: Mapping[str, Estimate], title: str, label: Callable[[float], str]) -> str:
    """Plot one bar with its interval per name, top down; the last one is highlighted."""

    def paint(axes: Axes) -> None:
        names = [*estimates][::-1]
        values = [estimates[name] for name in names]
        colours = [MODEL, *[HONEST] * (len(names) - 1)]
        axes.barh(names, [e.value for e in values], color=colours, height=0.52)
        for place, e in enumerate(values):
            axes.plot([e.low, e.high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
            axes.plot([e.low, e.high], [place, place], "|", color=INK, markersize=7)
            axes.annotate(
                label(e.value),
                (e.high, place),
                (7, 0),
                textcoords="offset points",
                va="center",
                color=MUTED,
                fontsize=9.5,
            )
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set(xticks=[], xlim=(0, max(e.high for e in values) * 1.22 or 1))
        axes.tick_params(axis="y", labelsize=9.5, labelcolor=INK)

    return _draw(paint, title, size=(5.6, 1.2 + 0.55 * len(estimates)))


def _draw(
    paint: Callable[[Axes], None],
    title: str,
    size: tuple[float, float] = (5.6, 3.9),
    *,
    legend_below: bool = False,
) -> str:
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # a literal per key is more than a palette needs
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        paint(axes)
        axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", pad=12)
        if legend_below:
            figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2, handlelength=1.4)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _percent(axes: Axes, which: str) -> None:
    def label(value: float, _: object) -> str:
        return f"{value * 100:.4g}%"

    if which in {"x", "both"}:
        axes.xaxis.set_major_formatter(FuncFormatter(label))
    if which in {"y", "both"}:
        axes.yaxis.set_major_formatter(FuncFormatter(label))


def _thin(x: Floats) -> npt.NDArray[np.int64]:
    """Return the indices of at most about `_POINTS` points, evenly spaced along x, both ends included."""
    if len(x) <= _POINTS:
        return np.arange(len(x))
    places = np.searchsorted(x, np.linspace(x[0], x[-1], _POINTS))
    return np.unique(np.concatenate([[0], places, [len(x) - 1]])).clip(max=len(x) - 1)


def _logit(p: Floats) -> Floats:
    inside = np.clip(p, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(inside / (1 - inside)))


def _wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% score interval of a share.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212.
    """
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, middle - half), min(1.0, middle + half)
