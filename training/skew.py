"""`python -m training.skew`: is what the scorer used what training would have used? Measured, feature by feature.

One row per live score with a feature vector. The vector is computed again from the event log, as of the same time, by the offline
store, and compared bit for bit. For each vector that differs the report says why, and proves it where it can: it folds exactly the
events the online state had seen (the score log keeps their number) and looks whether that gives the logged values.
"""

import itertools
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from feature_repo.errors import DataError, MillstreamError
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.stores.log import read_log
from feature_repo.stores.plan import Plan, WindowedRead
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.history import features_at
from training.dataset import PAYMENT_KEY

if TYPE_CHECKING:
    from feast import FeatureStore

FLOW_LAG: Final = "flow_lag"
ACCEPTED_LATER: Final = "accepted_later"
BEYOND_STATE: Final = "beyond_state"
UNEXPLAINED: Final = "unexplained"
MOST_MISSING: Final = 6
"""With more payments than this between flow and score, the cause is taken as read: the ways to have missed them are too many."""
CAUSES: Final[Mapping[str, str]] = {
    FLOW_LAG: "the flow had accepted, but not yet folded, an earlier payment of the same key",
    ACCEPTED_LATER: "an earlier payment of the same key was accepted only after the score was given",
    BEYOND_STATE: "the payment lay further back than the state could answer; the score said so",
    UNEXPLAINED: "none of these: a defect",
}

Score = dict[str, Any]


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
    store: "FeatureStore", plan: Plan, scores: Sequence[Score], missing: int, log: Path
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
            same = _same(score["features"].get(name), expected[name][row])
            counts = report.features.setdefault(name, {"match": 0, "mismatch": 0})
            counts["match" if same else "mismatch"] += 1
            if not same:
                names.append(name)
        if names:
            differing.append((score, names))
            if len(report.examples) < 20:
                shown = {n: {"live": score["features"].get(n), "log": expected[n][row]} for n in names}
                report.examples.append(
                    {"event_id": score["event_id"], "as_of": score["as_of"], "features": shown}
                )
    report.differing = len(differing)
    events = _Events(log, plan, [score for score, _ in differing])
    for i, (score, names) in enumerate(differing):
        cause, proved = events.cause(score, names)
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


def _same(live: Any, log: Any) -> bool:
    return _number(live) == _number(log) if _number(live) is not None else _number(log) is None


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


class _Events:
    """The logged events of the keys whose vectors differ, in the order in which they were accepted."""

    def __init__(self, log: Path, plan: Plan, scores: Sequence[Score]) -> None:
        self._windowed = plan.windowed
        self._tables: dict[tuple[str, ...], pa.Table] = {}
        if not scores:
            return
        for read in plan.windowed:
            if read.spec.join_keys in self._tables:
                continue
            specs = [r.spec for r in plan.windowed if r.spec.join_keys == read.spec.join_keys]
            columns = {c for spec in specs for c in spec.columns} | set(read.spec.join_keys)
            columns |= {
                "event_id",
                "event_timestamp",
                "created_timestamp",
                "source_partition",
                "source_offset",
            }
            asked = pa.array({score[read.entity_columns[0]] for score in scores}, pa.string())
            table = read_log(log, sorted(columns))
            table = table.filter(pc.is_in(table[read.spec.join_keys[0]], asked))
            order = [(c, "ascending") for c in ("created_timestamp", "source_partition", "source_offset")]
            self._tables[read.spec.join_keys] = table.sort_by(order)

    def cause(self, score: Score, names: Sequence[str]) -> tuple[str, bool]:
        """(why the vector differs, whether that is proved)."""
        reads = [r for r in self._windowed if set(names) & set(r.spec.feature_names)]
        if not reads:
            return UNEXPLAINED, False
        found = [self._view_cause(read, score) for read in reads]
        worst = max(found, key=lambda pair: list(CAUSES).index(pair[0]))[0]
        return worst, all(proved for _, proved in found)

    def _view_cause(self, read: WindowedRead, score: Score) -> tuple[str, bool]:
        spec = read.spec
        if spec.name in score["flags"]["incomplete"]:
            return BEYOND_STATE, True
        events = self._tables[spec.join_keys]
        for key, column in zip(spec.join_keys, read.entity_columns, strict=True):
            events = events.filter(pc.equal(events[key], score[column]))
        scored_at = pa.scalar(score["scored_at"], pa.timestamp("us", "UTC"))
        accepted = pc.less_equal(events["created_timestamp"], scored_at)
        n_accepted, folded = int(pc.sum(accepted).as_py() or 0), int(score["versions"][spec.name])
        if folded < n_accepted:
            known = events.filter(accepted)
            few = n_accepted - folded <= MOST_MISSING
            proved = few and any(
                _reproduces(read, part, score) for part in _without(known, n_accepted - folded)
            )
            return (FLOW_LAG, proved) if proved or not few else (UNEXPLAINED, False)
        before = pc.less(events["event_timestamp"], pa.scalar(score["as_of"], pa.timestamp("us", "UTC")))
        later = pc.any(pc.and_(before, pc.invert(accepted))).as_py()
        proved = _reproduces(read, events.slice(0, folded), score)
        return (ACCEPTED_LATER, True) if later and proved else (UNEXPLAINED, False)


def _without(events: pa.Table, missing: int) -> Iterator[pa.Table]:
    """The events but the last `missing`: the flow folds each partition in order, but runs ahead in one or the other."""
    partitions = sorted(set(events["source_partition"].to_pylist()))
    parts = [events.filter(pc.equal(events["source_partition"], p)) for p in partitions]
    for cuts in itertools.product(range(missing + 1), repeat=len(parts)):
        if sum(cuts) == missing and all(cut <= len(part) for cut, part in zip(cuts, parts, strict=True)):
            yield pa.concat_tables(
                [part.slice(0, len(part) - cut) for cut, part in zip(cuts, parts, strict=True)]
            )


def _reproduces(read: WindowedRead, events: pa.Table, score: Score) -> bool:
    """Whether the view's logged values are those of exactly these events."""
    spec = read.spec
    wanted = pa.table(
        {
            k: pa.array([score[c]], pa.string())
            for k, c in zip(spec.join_keys, read.entity_columns, strict=True)
        }
    )
    block = BlockColumns(events.combine_chunks())
    values, _ = features_at(
        spec,
        block.keys(spec.join_keys),
        block.events(spec),
        BlockColumns(wanted).keys(spec.join_keys),
        np.array([score["as_of"]], np.int64),
    )
    live = score["features"]
    return all(_same(live.get(n, v), v) for n, v in zip(spec.feature_names, values[0].tolist(), strict=True))


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
    try:
        version = (folder / "champion").read_text().strip()
    except FileNotFoundError:
        msg = f"there is no champion of model {model!r}"
        raise DataError(msg, where=folder, todo="train one: python -m training.train") from None
    return Plan.load(folder / version / "plan.json")


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
            from feature_repo.stores.repo import open_store

            report = measure(open_store(settings, repo), plan, scores, missing, settings.payments_log)
    except MillstreamError as error:
        console.print(f"[red]{error}[/]")
        sys.exit(1)
    path = out or settings.home / "skew.json"
    path.write_bytes(report.to_json())
    show(report, console)
    console.print(f"[dim]{datetime.now(UTC):%H:%M:%S} written to {path}[/]")


if __name__ == "__main__":
    app()
