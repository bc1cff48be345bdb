"""`python -m training.skew`: is what the scorer used what training would have used? Measured, feature by feature.

One row per live score with a feature vector. The vector is computed again from the event log, as of the same time, by the offline
store, and compared bit for bit. For each vector that differs the report says why, and proves it where it can: it folds exactly the
events the online state had seen (the score log keeps their number) and looks whether that gives the logged values.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from feature_repo.champion_alias import read_alias
from feature_repo.errors import DataError, MillstreamError
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.stores.reader.plan import Plan
from training.feature_matrix import PAYMENT_KEY
from training.skew_causes import CAUSES, Evidence, Score, same

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass
class SkewReport:
    """`compared` vectors, of which `differing`; `missing` answers were given without a vector (degraded).

    `causes` counts differing vectors per cause, `proved` how many of them the recomputation reproduced. `features` counts
    matches and mismatches per feature, `examples` are a few differing vectors in full.
    """

    compared: int = 0
    differing: int = 0
    missing: int = 0
    proved: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    features: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2)


def read_scores(folder: Path) -> tuple[list[Score], int]:
    """The logged answers with a vector, in order of time, and the number of those without. Raises `DataError` on a broken line.

    A last line without its end is an answer whose writing was cut off by a kill; it is left out.
    """
    scores, missing = [], 0
    for path in sorted(folder.glob("*.jsonl")):
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                score = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                msg = f"line {number} is not JSON: {error}"
                raise DataError(msg, where=path, todo="remove the line, or restore the file") from error
            if score.get("features"):
                scores.append(score)
            else:
                missing += 1
    return sorted(scores, key=lambda s: int(s["scored_at"])), missing


def measure(
    store: "FeatureStore", plan: Plan, scores: Sequence[Score], missing: int, logs: Path
) -> SkewReport:
    """Compare every score's vector with the one the offline store computes now."""
    report = SkewReport(compared=len(scores), missing=missing)
    if not scores:
        return report
    expected = _recompute(store, plan, scores)
    differing: list[tuple[Score, list[str]]] = []
    for row, score in enumerate(scores):
        names = []
        for name in plan.feature_names:
            equal = same(score["features"].get(name), expected[name][row])
            counts = report.features.setdefault(name, {"match": 0, "mismatch": 0})
            counts["match" if equal else "mismatch"] += 1
            if not equal:
                names.append(name)
        if names:
            differing.append((score, names))
            if len(report.examples) < 20:
                shown = {n: {"live": score["features"].get(n), "log": expected[n][row]} for n in names}
                report.examples.append(
                    {"event_id": score["event_id"], "as_of": score["as_of"], "features": shown}
                )
    report.differing = len(differing)
    evidence = Evidence(store, logs, plan, [score for score, _ in differing])
    for i, (score, names) in enumerate(differing):
        cause, proved = evidence.cause(score, names)
        report.causes[cause] = report.causes.get(cause, 0) + 1
        report.proved += proved
        if i < len(report.examples):
            report.examples[i] |= {"cause": cause, "proved": proved}
    return report


def _recompute(store: "FeatureStore", plan: Plan, scores: Sequence[Score]) -> dict[str, list[Any]]:
    import pandas as pd

    columns = [*plan.entity_columns, *(name for name, _ in plan.request if name != "event_timestamp")]
    rows = pd.DataFrame({c: [score.get(c) for score in scores] for c in columns})
    if PAYMENT_KEY in columns:
        rows[PAYMENT_KEY] = [score["event_id"] for score in scores]
    rows["event_timestamp"] = pd.to_datetime([score["as_of"] for score in scores], unit="us", utc=True)
    made = store.get_historical_features(rows, store.get_feature_service(plan.service)).to_arrow()
    return {name: made.column(name).to_pylist() for name in plan.feature_names}


def show(report: SkewReport, console: Console) -> None:
    """The report as a person reads it."""
    share = report.differing / report.compared if report.compared else 0.0
    console.print(
        f"[bold]{report.compared:,}[/] live vectors computed again from the log: "
        f"[bold]{report.differing:,}[/] differ ({share:.2%}); {report.missing:,} answers had no vector."
    )
    if report.differing:
        table = Table(
            "vectors", "cause", "meaning", title=f"{report.proved:,} of {report.differing:,} causes proved"
        )
        for cause, count in sorted(report.causes.items(), key=lambda item: -item[1]):
            table.add_row(f"{count:,}", cause, CAUSES[cause])
        console.print(table)


def _champion_plan(settings: RepoSettings, model: str) -> Plan:
    folder = settings.models / model
    return Plan.load(folder / read_alias(folder).version / "plan.json")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    home: Annotated[
        Path | None, typer.Option(help="Folder of log and scores; default MILLSTREAM_HOME.")
    ] = None,
    repo: Annotated[Path, typer.Option(help="The feature repository.")] = PROJECT_ROOT / "feature_repo",
    model: Annotated[
        str, typer.Option(help="Model whose champion's features are compared.")
    ] = "fraud_detection",
    out: Annotated[Path | None, typer.Option(help="Report file; default <home>/skew.json.")] = None,
) -> None:
    """Compute every live score's feature vector again from the event log, and say how many differ, where and why."""
    console = Console()
    if home is not None:
        os.environ["MILLSTREAM_HOME"] = str(home.resolve())
    settings = RepoSettings()
    try:
        scores, missing = read_scores(settings.scores)
        plan = _champion_plan(settings, model)
        with console.status(f"Computing {len(scores):,} vectors again from the log"):
            from feature_repo.stores.open_store import open_store

            report = measure(open_store(settings, repo), plan, scores, missing, settings.log_dir)
    except MillstreamError as error:
        console.print(f"[red]{error}[/]")
        sys.exit(1)
    path = out or settings.home / "skew.json"
    path.write_bytes(report.to_json())
    show(report, console)
    console.print(f"[dim]{datetime.now(UTC):%H:%M:%S} written to {path}[/]")


if __name__ == "__main__":
    app()
