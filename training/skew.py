"""`python -m training.skew`: compare the features that were scored with those that training would use, one by one.

The offline store computes the vector of each live score again from the event log, as of the same time, and the two
are compared bit for bit. For each vector that differs the report names the cause, and proves it where that is
possible (`training.skew_causes`).
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
    """Numbers of vectors compared and differing, and what differs.

    `missing`: answers without a vector (degraded). `causes`: differing vectors per cause (`skew_causes.CAUSES`).
    `proved`: differing vectors whose logged values were reproduced. `features`: feature -> {"match": n, "mismatch":
    n}. `examples`: at most 20 differing vectors in full.
    """

    compared: int = 0
    differing: int = 0
    missing: int = 0
    proved: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    features: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> bytes:
        """Return the report as indented JSON."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2)


def read_scores(folder: Path) -> tuple[list[Score], int]:
    """Return the logged answers with a vector in order of time, and the number of answers without one.

    A last line without a line end was cut off when the scorer was killed, and is left out. Raises `DataError` for any
    other line that is not JSON.
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
    """Compare the vector of every score with the one that the offline store computes from the logs in `logs`.

    `missing` is the number of answers without a vector.
    """
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
    evidence = Evidence(store, logs, plan, [score for score, _ in differing], scores)
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
    """Print the report."""
    share = report.differing / report.compared if report.compared else 0.0
    console.print(
        f"[bold]{report.compared:,}[/] live vectors were computed again from the log: "
        f"[bold]{report.differing:,}[/] differ ({share:.2%}). {report.missing:,} answers had no vector."
    )
    if report.differing:
        table = Table(
            "vectors", "cause", "meaning", title=f"Causes; {report.proved:,} of {report.differing:,} proved"
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
        Path | None, typer.Option(help="Folder of log and scores. [default: MILLSTREAM_HOME]")
    ] = None,
    repo: Annotated[Path, typer.Option(help="The feature repository.")] = PROJECT_ROOT / "feature_repo",
    model: Annotated[
        str, typer.Option(help="Model; the features of its champion are compared.")
    ] = "fraud_detection",
    out: Annotated[Path | None, typer.Option(help="Path of the report. [default: <home>/skew.json]")] = None,
) -> None:
    """Compute the feature vector of every live score again from the event log.

    Report how many differ, where and why.
    """
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
