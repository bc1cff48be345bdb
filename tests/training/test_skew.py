"""The skew report counts equal vectors as equal and names the true cause of every difference."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.errors import DataError
from feature_repo.settings import RepoSettings
from feature_repo.stores.clock import to_us
from feature_repo.stores.open_store import REPO, open_store
from feature_repo.stores.reader.on_demand import OnDemand
from feature_repo.stores.reader.plan import PlainRead, Plan, compile_plan
from feature_repo.stores.reader.reader import Reader
from flows.generate.history import generate
from tests.kits.applied_home import feast, log_payments, project
from training.skew import SkewReport, measure, read_scores
from training.skew_causes import (
    ACCEPTED_LATER,
    BEYOND_STATE,
    CONCURRENT,
    FLOW_LAG,
    MOST_MISSING,
    NEWER_ROW,
    UNEXPLAINED,
    Evidence,
)


class World:
    def __init__(self, settings: RepoSettings) -> None:
        self.settings = settings
        feast(settings, "apply")
        end = datetime.now(UTC)
        self.payments = generate(
            9, end - timedelta(hours=1), days=1 / 24, accounts=40, merchants=10, payments=1500
        ).payments
        self.folded = self.payments.num_rows - 60
        payees = self.payments["merchant_id"].to_pylist()
        for number in range(self.folded, len(payees)):
            payees[number] = payees[0]  # so that each of these misses all before it
        self.payments = self.payments.set_column(3, "merchant_id", pa.array(payees, pa.string()))
        log_payments(settings, self.payments)
        project(settings, self.payments.slice(0, self.folded))
        self.store: FeatureStore = open_store(settings)
        self.plan: Plan = compile_plan(self.store, "fraud_detection_v1")
        self._reader = Reader(self.plan, REPO)
        self._client = redis.Redis.from_url(settings.redis_url)

    def score(self, number: int, scored_at: datetime | None = None) -> dict[str, Any]:
        """What the score log holds of payment `number`, scored with the states as they are."""
        row = self.payments.slice(number, 1).to_pylist()[0]
        replies = [self._client.hmget(key, fields) for key, fields in self._reader.commands(row)]
        as_of = to_us(row["event_timestamp"])
        vector = self._reader.vector(row, replies, as_of, time.time_ns() // 1000)
        return row | {
            "as_of": as_of,
            "scored_at": to_us(scored_at or row["event_timestamp"] + timedelta(milliseconds=1)),
            "features": {name: vector.named[name] for name in self.plan.feature_names},
            "versions": vector.versions,
            "flags": {"incomplete": list(vector.incomplete), "capped": list(vector.capped)},
        }

    def measure(self, *scores: dict[str, Any]) -> SkewReport:
        return measure(self.store, self.plan, scores, 0, self.settings.log_dir)


@pytest.fixture(scope="module")
def world(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MILLSTREAM_HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("REDIS_URL", redis_url)
    redis.Redis.from_url(redis_url).flushall()
    yield World(RepoSettings())
    patch.undo()


def test_first_payment_after_the_folded_ones_has_no_skew(world: World) -> None:
    report = world.measure(world.score(world.folded))
    assert (report.compared, report.differing, report.causes) == (1, 0, {})
    assert all(counts == {"match": 1, "mismatch": 0} for counts in report.features.values())


def test_payments_the_flow_had_not_folded_are_named_as_the_cause_and_proved(world: World) -> None:
    report = world.measure(*(world.score(n) for n in range(world.folded, world.folded + MOST_MISSING)))
    assert report.differing == MOST_MISSING - 1
    assert report.causes == {FLOW_LAG: report.differing}
    assert report.proved == report.differing


def test_payments_accepted_after_the_score_are_named_as_the_cause(world: World) -> None:
    earlier = world.payments["event_timestamp"][world.folded - 1].as_py()
    scores = [world.score(n, scored_at=earlier) for n in range(world.folded + 1, world.folded + 30)]
    report = world.measure(*scores)
    assert set(report.causes) == {ACCEPTED_LATER}


def test_requests_of_one_key_scored_at_the_same_time_are_named_as_the_cause_and_proved(world: World) -> None:
    def requested(number: int, began_ms: float, ended_ms: float) -> dict[str, Any]:
        score = world.score(number)
        began = world.payments["event_timestamp"][world.folded].as_py()
        score["arrived_at"] = to_us(began + timedelta(milliseconds=began_ms))
        score["scored_at"] = to_us(began + timedelta(milliseconds=ended_ms))
        return score

    first, second = requested(world.folded, 0, 5), requested(world.folded + 1, 3, 9)
    report = world.measure(first, second)
    assert (report.causes, report.proved) == ({CONCURRENT: 1}, 1)
    after = requested(world.folded + 1, 6, 9)  # the first one had been answered
    assert CONCURRENT not in world.measure(first, after).causes
    second["features"]["merchant_amount_sum_1h"] += 1.0  # not explained by leaving out the first one
    assert world.measure(first, second).causes.keys() == {UNEXPLAINED}


def test_a_read_beyond_the_state_is_its_own_cause(world: World) -> None:
    score = world.score(200)
    assert score["flags"]["incomplete"]
    assert BEYOND_STATE in world.measure(score).causes


def test_a_value_without_a_cause_is_reported_as_a_defect(world: World) -> None:
    score = world.score(world.folded)
    score["features"]["account_amount_sum_1h"] += 1.0
    report = world.measure(score)
    assert report.causes == {UNEXPLAINED: 1}
    assert list(report.examples[0]["features"]) == ["account_amount_sum_1h"]


def test_a_cut_last_line_is_left_out_and_a_broken_line_is_an_error(tmp_path: Path) -> None:
    line = orjson.dumps({"features": {"x": 1}, "scored_at": 1})
    degraded = orjson.dumps({"features": None, "scored_at": 1})
    log = tmp_path / "scores.jsonl"
    log.write_bytes(line + b"\n" + degraded + b"\n" + line[:20])
    scores, missing = read_scores(tmp_path)
    assert (len(scores), missing) == (1, 1)
    log.write_bytes(line + b"\n{nonsense}\n")
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read_scores(tmp_path)


def test_no_scores_give_an_empty_report(world: World) -> None:
    assert world.measure() == SkewReport()


class FakeStore:
    """A registry of one plain view, over the log of customers."""

    project = "p"

    def __init__(self) -> None:
        source = SimpleNamespace(path="/log/customers", field_mapping={"segment": "customer_segment"})
        self.registry = SimpleNamespace(
            get_any_feature_view=lambda name, project: SimpleNamespace(batch_source=source)
        )


JOINED = Plan(
    project="p",
    service="s",
    windowed=(),
    plain=(PlainRead("profile", ("account_id",), ("account_id",), (("customer_segment", "string", ""),), 0),),
    on_demand=(
        OnDemand(
            "parties",
            "f.py",
            "f",
            "",
            (("customer_segment", "profile"), ("amount", "")),
            (("student", "int64"),),
        ),
    ),
    request=(),
    columns=(("student", "int64"),),
)


@pytest.mark.parametrize(
    ("versions", "cause"),
    [
        pytest.param([(-50, -50)], UNEXPLAINED, id="known long before"),
        pytest.param(
            [(-50, -50), (-5, 20)], ACCEPTED_LATER, id="a version before it, accepted after the score"
        ),
        pytest.param([(-50, -50), (5, 6)], NEWER_ROW, id="a version after it, accepted before the score"),
        pytest.param([(-50, -0.1)], FLOW_LAG, id="accepted a moment before the score"),
        pytest.param([], UNEXPLAINED, id="nobody"),
    ],
)
def test_a_joined_row_that_differed_online_has_a_cause(
    tmp_path: Path, versions: list[tuple[float, float]], cause: str
) -> None:
    minute = 60_000_000
    now = 1_790_000_000_000_000
    rows = pa.table(
        {
            "account_id": pa.array(["a"] * len(versions), pa.string()),
            "event_timestamp": pa.array([int(now + e * minute) for e, _ in versions], pa.int64()),
            "created_timestamp": pa.array([int(now + c * minute) for _, c in versions], pa.int64()),
            "source_partition": pa.array(["p"] * len(versions), pa.string()),
            "source_offset": pa.array(range(len(versions)), pa.int64()),
        }
    )
    times = [pa.field(f.name, TIMESTAMP) if "timestamp" in f.name else f for f in rows.schema]
    (tmp_path / "customers").mkdir()
    pq.write_table(rows.cast(pa.schema(times)), tmp_path / "customers" / "a.parquet")
    lag = 10 if cause in {NEWER_ROW, ACCEPTED_LATER} else 0
    score = {
        "event_id": "x",
        "account_id": "a",
        "as_of": now,
        "scored_at": now + lag * minute,
        "features": {},
    }
    evidence = Evidence(FakeStore(), tmp_path, JOINED, [score])  # type: ignore[arg-type]
    assert evidence.cause(score, ["student"]) == (cause, False)
