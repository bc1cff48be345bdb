"""The summary of a demo run: as JSON, and as text on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_WHY: Final[Mapping[str, str]] = {
    "concurrent_requests": "another request of the same key was being scored at the same time",
    "flow_lag": "the flow had accepted, but not yet folded, an earlier event of the same key",
    "accepted_later": "an earlier event of the same key was accepted only after the score was given",
    "newer_row": "the online store held a newer version of a customer, merchant or charge",
    "beyond_state": "the payment is older than what the online state can answer; the answer said so",
    "unexplained": "no cause found: a defect, please report it",
}
_BRINGS: Final[Mapping[str, str]] = {
    "fraud_detection_v1": "payments only",
    "fraud_detection_v2": "+ customers, merchants, charges",
    "fraud_detection_v3": "+ windows over fraud labels",
}
WIDTH: Final = 104
_STEPS: Final[Mapping[str, str]] = {"apply": "feast apply", "start": "start", "catch_up": "catch up"}


def build(
    *,
    payments_in: int,
    logged: int,
    dead_letters: int,
    manifest: Mapping[str, Any],
    traffic: Mapping[str, Any],
    skew: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the summary. Its keys are stable: `tests/flows/demo/test_demo.py` checks them."""
    metrics = manifest["metrics"]
    names = ("average_precision", "roc_auc", "recall_at_1pct_fpr")
    return {
        "payments": {"in": payments_in, "logged": logged, "dead_letters": dead_letters},
        "training": {
            "rows": sum(part["payments"] for part in manifest["data"]["rows"].values()),
            "features": len(manifest["features"]),
            "validation_success": manifest["validation"]["success"],
        },
        "model": {
            **{name: metrics[name] for name in names},
            "by_fraud_type": {
                kind: {"frauds": found["frauds"], **{name: found[name] for name in names}}
                for kind, found in metrics["by_fraud_type"].items()
            },
            "by_service": [
                {
                    "service": found["service"],
                    "features": found["features"],
                    "average_precision": found["average_precision"],
                    "interval": found["intervals"]["average_precision"],
                }
                for found in metrics["services"]
            ],
        },
        "scoring": {
            "requests": traffic["requests"],
            "latency_ms": {p: traffic["latency_ms"][p] for p in ("p50", "p99")},
        },
        "freshness_ms": {p: traffic["freshness_ms"][p] for p in ("p50", "p99")},
        "skew": {name: skew[name] for name in ("compared", "differing", "causes")},
        "seconds": dict(seconds),
    }


def show(
    console: Console,
    summary: Mapping[str, Any],
    *,
    manifest: Mapping[str, Any],
    traffic: Mapping[str, Any],
    places: Mapping[str, Path],
) -> None:
    """Print the summary; `places` are names and paths of the files to open."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, found in (
        ("Payments", _payments(summary["payments"])),
        ("Training", _training(summary["training"], manifest)),
        ("Model", _model(summary["model"], manifest["metrics"]["outcome"])),
        ("Features", _services(summary["model"]["by_service"])),
        ("Scoring", _scoring(summary["scoring"], traffic)),
        ("Freshness", _freshness(summary["freshness_ms"], traffic["freshness_ms"])),
        ("Skew", _skew(summary["skew"])),
        ("Time", _time(summary["seconds"])),
    ):
        table.add_row(name, found)
    console.print()
    console.print(Panel(table, title="[bold]Summary[/]", box=box.ROUNDED, padding=(1, 2), width=WIDTH))
    console.print()
    for name, place in places.items():
        console.print(f"  [bold]{name:<13}[/] {_near(place)}", highlight=False, soft_wrap=True)


def _payments(found: Mapping[str, int]) -> Text:
    adds_up = found["in"] == found["logged"] + found["dead_letters"]
    return Text.from_markup(
        f"{found['in']:,} published = {found['logged']:,} logged + {found['dead_letters']:,} dead letters"
        + ("" if adds_up else "  [red]these numbers should be equal[/]")
    )


def _training(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> Text:
    checks = manifest["validation"]["expectations"]
    verdict = (
        f"[green]all {checks} data checks passed[/]"
        if found["validation_success"]
        else "[red]data checks failed[/]"
    )
    return Text.from_markup(f"{found['rows']:,} rows of {found['features']} features; {verdict}")


def _model(found: Mapping[str, Any], outcome: Mapping[str, Any]) -> Group:
    kinds = Table(box=box.SIMPLE_HEAD, padding=(0, 2), pad_edge=False, show_edge=False)
    kinds.add_column("type of fraud")
    for title in ("frauds", "average precision", "ROC AUC", "recall at 1 % FPR"):
        kinds.add_column(title, justify="right")
    rows = [("all", {"frauds": outcome["frauds"], **found}), *found["by_fraud_type"].items()]
    for kind, of in rows:
        kinds.add_row(
            kind,
            f"{of['frauds']:,}",
            f"{of['average_precision']:.3f}",
            f"{of['roc_auc']:.3f}",
            f"{of['recall_at_1pct_fpr']:.3f}",
            style="bold" if kind == "all" else "",
        )
    return Group(kinds, Text())


def _services(found: Sequence[Mapping[str, Any]]) -> Group:
    """Return the table of the same model on fewer features, on the same test days."""
    grown = Table(box=box.SIMPLE_HEAD, padding=(0, 2), pad_edge=False, show_edge=False)
    grown.add_column("same model, features from")
    for title in ("features", "average precision", "95 % interval"):
        grown.add_column(title, justify="right")
    for of in found:
        low, high = of["interval"]
        grown.add_row(
            _BRINGS.get(of["service"], of["service"]),
            f"{of['features']}",
            f"{of['average_precision']:.3f}",
            f"{low:.2f} to {high:.2f}",
        )
    return Group(grown, Text())


def _scoring(found: Mapping[str, Any], traffic: Mapping[str, Any]) -> Text:
    decided = ", ".join(f"{n:,} {kind}" for kind, n in sorted(traffic["decisions"].items()))
    latency = found["latency_ms"]
    text = f"{found['requests']:,} requests, p50 {_ms(latency['p50'])}, p99 {_ms(latency['p99'])}  [dim]{decided}[/]"
    if traffic["degraded"]:
        text += f"\n[yellow]{traffic['degraded']:,} answers were degraded: the fallback model decided[/]"
    if traffic["failed"]:
        text += f"\n[red]{traffic['failed']:,} requests failed: {traffic['last_failure']}[/]"
    return Text.from_markup(text)


def _freshness(found: Mapping[str, float | None], seen: Mapping[str, Any]) -> Text:
    text = (
        f"p50 {_ms(found['p50'])}, p99 {_ms(found['p99'])}  "
        f"[dim]from bus to online store, {seen['samples']:,} samples[/]"
    )
    if seen["unreadable"]:
        text += f"\n[red]{seen['unreadable']:,} samples were not readable within 30 s[/]"
    return Text.from_markup(text)


def _skew(found: Mapping[str, Any]) -> Text:
    same = found["compared"] - found["differing"]
    head = f"{found['compared']:,} live vectors computed again from the log: "
    lines = [f"{head}[green]{same:,} equal bit for bit[/], {found['differing']:,} differ"]
    for cause, count in sorted(found["causes"].items(), key=lambda pair: -pair[1]):
        colour = "red" if cause == "unexplained" else "dim"
        lines.append(f"[{colour}]{count:,} × {cause}: {_WHY.get(cause, cause)}[/]")
    return Text.from_markup("\n".join(lines))


def _time(seconds: Mapping[str, float]) -> Text:
    parts = ", ".join(
        f"{_STEPS.get(name, name)} {value:.0f}" for name, value in seconds.items() if name != "total"
    )
    return Text.from_markup(f"{seconds['total']:.0f} s  [dim]{parts}[/]")


def _near(place: Path) -> Path:
    """Return the path relative to the working directory, if it is below it."""
    return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} ms"
