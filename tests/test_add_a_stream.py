"""A stranger follows docs/add-a-stream.md: one stream file and one view file in a copy of the repository, then every
command.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from feature_repo.privacy import PARTY, Pseudonyms
from feature_repo.settings import PROJECT_ROOT
from flows.generate.history import generate
from flows.local.live import free_port
from tests.kits import kafka_broker
from tests.kits.child_process import child_process
from tests.kits.waiting import wait_until

KEY = "k1:" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY="
DOCS = PROJECT_ROOT / "docs" / "add-a-stream.md"
PYTHON = sys.executable
NO_BROKER = kafka_broker.reason_without_broker()
TRAINING = """\
data: {label_delay_days: 2, warmup_days: 1}
split: {valid_days: 4, test_days: 4, min_fraud: 2}
validation: {max_fraud_share: 0.5, min_rows: 100}
model: {rounds: 20, threads: 1}
report: {bootstrap: 20}
"""


def block(language: str, after: str) -> str:
    """The first code block of a language after a text of the page."""
    text = DOCS.read_text(encoding="utf-8")
    found = re.search(rf"```{language}\n(.*?)```", text[text.index(after) :], re.DOTALL)
    assert found is not None
    return found[1]


class Checkout:
    """A copy of the repository with the two files of the page, and a home of its own."""

    def __init__(self, root: Path, redis_url: str) -> None:
        self.root, self.home = root, root / "var"
        for name in ("feature_repo", "flows", "serving", "training"):
            shutil.copytree(PROJECT_ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        (root / "feature_repo/streams/logins.py").write_text(block("python", "## 1."), encoding="utf-8")
        (root / "feature_repo/views/account_logins.py").write_text(block("python", "## 2."), encoding="utf-8")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MILLSTREAM_")},
            "PYTHONPATH": str(root),
            "REDIS_URL": redis_url,
            "MILLSTREAM_PSEUDONYM_KEY": KEY,
            "MILLSTREAM_RECOVERY_PARTITIONS": "2",
            "MILLSTREAM_EPOCH_MS": "250",
        }

    def run(self, *command: str, cwd: str = ".", **variables: str) -> str:
        """Run a command to its end; return what it printed."""
        done = subprocess.run(
            command,
            cwd=self.root / cwd,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, *arguments: str, **variables: str) -> str:
        return self.run(PYTHON, *arguments, **variables)

    def process(
        self, *arguments: str, ready: Callable[[], bool] | None = None, **variables: str
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """A process that runs until the block ends."""
        log = self.root / "process.log"
        return child_process(
            [PYTHON, *arguments], self.environment | variables, log, folder=self.root, ready=ready
        )

    def flow(self, **variables: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """The flow of logins, as the page starts it."""
        return self.process("-m", "bytewax.run", "flows.stream:flow('logins')", **variables)

    def logins(self, folder: str = "log", home: Path | None = None) -> list[dict[str, Any]]:
        """Rows of the log of logins, or of its dead letters."""
        files = sorted(((home or self.home) / folder / "logins").glob("*.parquet"))
        return [row for path in files for row in pq.read_table(path).to_pylist()]

    def wait_for(self, process: subprocess.Popen[bytes], events: int, home: Path | None = None) -> None:
        """Return once so many logins are in the log or dead letters."""
        wait_until(
            lambda: len(self.logins(home=home)) + len(self.logins("dead_letters", home)) >= events,
            240,
            f"{events} logins in the log of {self.root / 'process.log'}",
            alive=lambda: process.poll() is None,
            every=0.2,
        )


def login(n: int, account: str, at: datetime, **changes: Any) -> dict[str, Any]:
    made = {
        "login_id": f"web-{n}",
        "event_timestamp": at.isoformat().replace("+00:00", "Z"),
        "account_id": account,
        "success": n % 3 > 0,
        "country": ("FR", "DE", "PL")[n % 3],
        "ip_address": f"192.0.2.{n % 256}",
    }
    return made | changes


@pytest.fixture
def checkout(tmp_path: Path, clean_redis: redis.Redis, redis_url: str) -> Checkout:
    return Checkout(tmp_path / "millstream", redis_url)


def test_stream_of_logins_needs_one_stream_file_and_one_view_file(
    checkout: Checkout, clean_redis: redis.Redis
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    pseudonyms = Pseudonyms.from_setting(KEY)
    checkout.run(str(Path(PYTHON).with_name("feast")), "apply", cwd="feature_repo")

    # a history of payments and labels, as any home has one
    world = generate(
        5, now - timedelta(days=20), days=20, accounts=120, merchants=30, payments=4_000, fraud_share=0.05
    )
    known = world.labels.filter(pa.compute.less(world.labels["event_timestamp"], pa.scalar(now)))
    for name, table in (("payments", world.payments), ("labels", known)):
        pq.write_table(table, checkout.root / f"{name}.parquet")
    checkout.python(
        "-m", "flows.backfill_files", "--payments", "payments.parquet", "--labels", "labels.parquet"
    )

    # logins from a CSV: each half an hour before a payment, by the whole minute, one of them of no country there is
    payments = world.payments.to_pylist()
    times = [p["event_timestamp"].replace(second=0, microsecond=0) - timedelta(minutes=30) for p in payments]
    order = np.argsort(np.array(times))
    with (checkout.root / "logins.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "at", "user", "ok", "country", "ip"])
        for n, at in enumerate(order.tolist()):
            one = login(n, payments[at]["account_id"], times[at])
            country = "France" if n == 7 else one["country"]
            fields = (
                n,
                f"{times[at]:%Y-%m-%d %H:%M:%S}",
                one["account_id"],
                one["success"],
                country,
                one["ip_address"],
            )
            writer.writerow(fields)
    (checkout.root / "logins.yaml").write_text(block("yaml", "## 3."), encoding="utf-8")
    checkout.python("-m", "flows.bring", "logins.csv", "--mapping", "logins.yaml")
    assert len(checkout.logins()) == len(payments) - 1
    (letter,) = checkout.logins("dead_letters")
    assert letter["reason"] == "check"
    assert "France" not in letter["detail"]

    # and from the bus
    account, other = payments[-1]["account_id"], payments[-2]["account_id"]
    live = [login(10_000 + n, account, now - timedelta(seconds=400 - 10 * n)) for n in range(5)]
    live += [login(10_005, account, now, event_timestamp="soon"), login(10_006, other, now)]
    for event in live:
        clean_redis.xadd("millstream:logins:0", {"v": json.dumps(event)})
    with checkout.flow() as flow:
        checkout.wait_for(flow, len(payments) + len(live))
    rows = checkout.logins()
    assert len(rows) == len(payments) - 1 + len(live) - 1
    assert {r["account_id"] for r in rows} == {pseudonyms.of(p["account_id"], PARTY) for p in payments}
    assert {r["ip_address"] for r in rows} == {
        pseudonyms.of(f"192.0.2.{n}", "ip_address") for n in range(256)
    }
    assert b"192.0.2." not in b"".join(
        p.read_bytes() for p in (checkout.home / "log/logins").glob("*.parquet")
    )

    # the windows online and offline are those of SQL
    features = [
        "account_login_count_1h",
        "account_login_count_1d",
        "account_login_success_mean_1d",
        "account_login_countries_unique_1d",
    ]
    named = [
        pseudonyms.of(a, PARTY)
        for a in dict.fromkeys([account, other, *(p["account_id"] for p in payments[:20])])
    ]
    script = f"""
import json, pandas as pd
from datetime import datetime, UTC
from feast import FeatureStore
store = FeatureStore("feature_repo")
names = ["account_logins:" + f for f in {features!r}]
accounts = {named!r}
online = store.get_online_features(names, [dict(account_id=a) for a in accounts]).to_dict()
now = datetime.now(UTC)
rows = pd.DataFrame(dict(account_id=accounts, event_timestamp=[now] * len(accounts)))
offline = store.get_historical_features(rows, names).to_df().set_index("account_id").loc[accounts]
offline = {{f: [None if pd.isna(v) else float(v) for v in offline[f]] for f in {features!r}}}
print("RESULT" + json.dumps(dict(online={{f: online[f] for f in {features!r}}}, offline=offline, now=now.isoformat())))
"""
    found = json.loads(checkout.python("-c", script).partition("RESULT")[2])
    expected = by_sql(checkout, named, datetime.fromisoformat(found["now"]))
    assert sum(row[1] for row in expected) > 20
    for where in ("online", "offline"):
        assert [tuple(row) for row in zip(*(found[where][f] for f in features), strict=True)] == [
            pytest.approx(row) for row in expected
        ], where

    # a model, and a score that has read the logins
    (checkout.root / "training.yaml").write_text(TRAINING, encoding="utf-8")
    checkout.python(
        "-m", "training.train", "--service", "fraud_with_logins", "--config", "training.yaml", "--no-gate"
    )
    port = free_port()
    request = {k: v for k, v in payments[-1].items() if v is not None} | {
        "event_id": "scored",
        "amount": 25.0,
    }
    request["event_timestamp"] = datetime.now(UTC).isoformat()
    with checkout.process(
        "-m",
        "serving",
        "--port",
        str(port),
        ready=lambda: has_model(port),
        MILLSTREAM_AUTH="loopback",
        MILLSTREAM_DEADLINE_MS="20000",
    ):
        answer = ask(port, request)
        wait_until(lambda: bool(scored(checkout)), 30, "the answer in the score log")
    assert answer["degraded"] is False
    assert (
        answer["model"]["version"]
        == (checkout.home / "models/fraud_detection/champion").read_text().split()[0]
    )
    (line,) = scored(checkout)
    at = datetime.fromisoformat(request["event_timestamp"])
    (row,) = by_sql(checkout, [pseudonyms.of(account, PARTY)], at)
    assert [line["features"][f] for f in features] == [pytest.approx(value) for value in row]

    # the repaired letters go back
    checkout.python("-m", "flows.redrive", "export", "letters.jsonl", "--stream", "logins")
    letters = [json.loads(text) for text in (checkout.root / "letters.jsonl").read_text().splitlines()]
    assert {one["reason"] for one in letters} == {"check", "schema"}
    repaired = [one for one in letters if one["reason"] == "schema"]
    repaired[0]["event"]["event_timestamp"] = now.isoformat()
    (checkout.root / "repaired.jsonl").write_text(json.dumps(repaired[0]) + "\n")
    assert "1 events published on the bus" in checkout.python("-m", "flows.redrive", "send", "repaired.jsonl")
    with checkout.flow() as flow:
        checkout.wait_for(flow, len(payments) + len(live) + 1)

    # an erased account is gone, does not come back, and the others are what they were
    before = [r for r in checkout.logins() if r["account_id"] != pseudonyms.of(account, PARTY)]
    erased = len(checkout.logins()) - len(before)
    assert erased > 5
    checkout.python("-m", "flows.erase", "--account", account, "--yes")
    assert sorted(checkout.logins(), key=str) == sorted(before, key=str)
    assert pseudonyms.of(account, PARTY).encode() not in b"".join(clean_redis.scan_iter())
    clean_redis.xadd("millstream:logins:0", {"v": json.dumps(live[0] | {"login_id": "again"})})
    letters_before = len(checkout.logins("dead_letters"))
    with checkout.flow() as flow:
        checkout.wait_for(flow, len(before) + letters_before + 1)
    assert sorted(checkout.logins(), key=str) == sorted(before, key=str)
    assert checkout.logins("dead_letters")[-1]["payload"] is None or any(
        one["reason"] == "erased" for one in checkout.logins("dead_letters")
    )


def scored(checkout: Checkout) -> list[dict[str, Any]]:
    """The records of the score log."""
    files = (checkout.home / "scores").glob("*.jsonl")
    return [json.loads(text) for path in files for text in path.read_text().splitlines()]


def by_sql(checkout: Checkout, accounts: list[str], now: datetime) -> list[tuple[Any, ...]]:
    """(logins of an hour, of a day, share of a day that succeeded, countries of a day) of each account, by DuckDB."""
    query = f"""
        SELECT count(*) FILTER (event_timestamp >= $now - INTERVAL 1 HOUR), count(*),
               avg(success::INT), count(DISTINCT country)
        FROM read_parquet('{checkout.home}/log/logins/*.parquet')
        WHERE account_id = $account AND event_timestamp >= $now - INTERVAL 1 DAY AND event_timestamp < $now
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return [connection.execute(query, {"account": a, "now": now}).fetchone() or () for a in accounts]


def has_model(port: int) -> bool:
    """Whether the scorer at a port answers with a model."""
    with contextlib.suppress(OSError):
        ready = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5))
        return bool({check["name"]: check["ok"] for check in ready["checks"]}.get("model"))
    return False


def ask(port: int, request: dict[str, Any]) -> dict[str, Any]:
    """Score a payment."""
    body = json.dumps(request, default=str).encode()
    posted = urllib.request.Request(
        f"http://127.0.0.1:{port}/score", body, {"content-type": "application/json"}
    )
    answer: dict[str, Any] = json.load(urllib.request.urlopen(posted, timeout=60))
    return answer


@pytest.mark.skipif(NO_BROKER is not None and not kafka_broker.REQUIRED, reason=str(NO_BROKER))
def test_stream_of_logins_comes_from_kafka_too(checkout: Checkout) -> None:
    from confluent_kafka import Producer

    topic = kafka_broker.unused_topic("logins")
    kafka_broker.make_topic(kafka_broker.servers(), topic, 2)
    now = datetime.now(UTC).replace(microsecond=0)
    producer = Producer({"bootstrap.servers": kafka_broker.servers()})
    for n in range(40):
        event = login(n, f"A{n % 5}", now - timedelta(seconds=40 - n))
        producer.produce(topic, json.dumps(event).encode(), event["account_id"].encode())
    producer.flush(30)
    variables = {
        "MILLSTREAM_SOURCE": "kafka",
        "KAFKA_BOOTSTRAP_SERVERS": kafka_broker.servers(),
        "MILLSTREAM_KAFKA_TOPICS": json.dumps({"logins": topic}),
    }
    with checkout.flow(**variables) as flow:
        checkout.wait_for(flow, 40)
    assert len({row["login_id"] for row in checkout.logins()}) == 40
