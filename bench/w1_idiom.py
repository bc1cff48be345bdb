"""Workload W1 as a skilled user of Bytewax writes it: the reference of `bench.stream`.

One item per payment. Two branches from the source, for account and merchant. Per key one `stateful_map` with a deque
per window, running sums and monotonic deques, so that a payment costs amortised constant time; features are as of the
payment, without it. Features of a key go into a Redis hash, one pipeline of HSETs per batch; rows are appended to a
JSON-lines file that is synced at each snapshot; the source resumes after the last entry. Recovery is as in our flow:
the same epoch, the same number of partitions.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
import redis
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from bench import w1, w1_stream

BATCH = 1_000
NAP = timedelta(milliseconds=5)


class Source(FixedPartitionedSource[bytes, str]):
    """The four streams of the bus."""

    def __init__(self, url: str, most: list[int]) -> None:
        self._url = url
        self._most = {w1_stream.stream_name(p): count for p, count in enumerate(most)}

    def list_parts(self) -> list[str]:
        return list(self._most)

    def build_part(self, step_id: str, for_part: str, resume_state: str | None) -> Part:
        return Part(self._url, for_part, resume_state or "0-0", self._most[for_part])


class Part(StatefulSourcePartition[bytes, str]):
    """One stream, resumed after its last entry."""

    def __init__(self, url: str, name: str, last: str, most: int) -> None:
        self._client = redis.Redis.from_url(url)
        self._name, self._last, self._left = name, last, most
        self._awake: datetime | None = None

    def next_batch(self) -> list[bytes]:
        count = min(BATCH, self._left)
        found: Any = self._client.xread({self._name: self._last}, count=count) if count else []
        if not found:
            self._awake = datetime.now(UTC) + NAP
            return []
        self._awake = None
        entries = found[0][1]
        self._last = entries[-1][0].decode()
        self._left -= len(entries)
        return [fields[b"v"] for _, fields in entries]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> str:
        return self._last


class Window:
    """Count, sum, mean and maximum over one span."""

    __slots__ = ("events", "highest", "span", "total")

    def __init__(self, span: float) -> None:
        self.span = span
        self.events: deque[tuple[float, float]] = deque()
        self.highest: deque[tuple[float, float]] = deque()
        self.total = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Window:
        """Bytewax deep-copies a state for a snapshot; events never change, so a shallow copy is enough."""
        made = Window(self.span)
        made.events, made.highest, made.total = self.events.copy(), self.highest.copy(), self.total
        return made

    def read(self, now: float) -> tuple[int, float, float | None, float | None]:
        since = now - self.span
        events, highest = self.events, self.highest
        while events and events[0][0] < since:
            self.total -= events.popleft()[1]
        while highest and highest[0][0] < since:
            highest.popleft()
        count = len(events)
        return (
            count,
            self.total,
            self.total / count if count else None,
            highest[0][1] if highest else None,
        )

    def add(self, now: float, amount: float) -> None:
        self.events.append((now, amount))
        self.total += amount
        highest = self.highest
        while highest and highest[-1][1] <= amount:
            highest.pop()
        highest.append((now, amount))


class Account:
    """State of an account."""

    __slots__ = ("merchants", "previous", "seen", "windows")

    def __init__(self) -> None:
        self.windows = {name: Window(us / 1e6) for name, us in w1.WINDOWS.items()}
        self.merchants: deque[tuple[float, str]] = deque()
        self.seen: Counter[str] = Counter()
        self.previous: tuple[float, float] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Account:
        made = Account()
        made.windows = {name: window.__deepcopy__(memo) for name, window in self.windows.items()}
        made.merchants, made.seen, made.previous = self.merchants.copy(), self.seen.copy(), self.previous
        return made


def account(state: Account | None, event: dict[str, Any]) -> tuple[Account, dict[str, Any]]:
    state = state or Account()
    now, amount, merchant = event["ts"], event["amount"], event["merchant_id"]
    made: dict[str, Any] = {"event_timestamp": now}
    for name, window in state.windows.items():
        (
            made[f"amount_count_{name}"],
            made[f"amount_sum_{name}"],
            made[f"amount_mean_{name}"],
            made[f"amount_max_{name}"],
        ) = window.read(now)
        window.add(now, amount)
    merchants, seen = state.merchants, state.seen
    while merchants and merchants[0][0] < now - 3600:
        gone = merchants.popleft()[1]
        seen[gone] -= 1
        if not seen[gone]:
            del seen[gone]
    made["merchants_unique_1h"] = len(seen)
    merchants.append((now, merchant))
    seen[merchant] += 1
    if state.previous is not None:
        made["amount_last_30d"] = state.previous[1]
        made["seconds_since_last_30d"] = now - state.previous[0]
    state.previous = (now, amount)
    return state, made


class Merchant:
    """State of a merchant."""

    __slots__ = ("windows",)

    def __init__(self) -> None:
        self.windows = {name: Window(w1.WINDOWS[name] / 1e6) for name in ("1h", "1d")}


def merchant(state: Merchant | None, event: dict[str, Any]) -> tuple[Merchant, dict[str, Any]]:
    state = state or Merchant()
    now, amount = event["ts"], event["amount"]
    made: dict[str, Any] = {"event_timestamp": now}
    for name, window in state.windows.items():
        made[f"amount_count_{name}"], _, made[f"amount_mean_{name}"], _ = window.read(now)
        window.add(now, amount)
    return state, made


class Online(FixedPartitionedSink[dict[str, Any], None]):
    """Writes one hash per key."""

    def __init__(self, url: str, entity: str) -> None:
        self._url, self._entity = url, entity

    def list_parts(self) -> list[str]:
        return ["0"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> OnlinePart:
        return OnlinePart(self._url, self._entity)


class OnlinePart(StatefulSinkPartition[tuple[str, dict[str, Any]], None]):
    """One pipeline of HSETs a batch."""

    def __init__(self, url: str, entity: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._entity = entity

    def write_batch(self, values: list[tuple[str, dict[str, Any]]]) -> None:
        newest = dict(values)  # of a key that occurs twice in a batch the last one wins
        with self._client.pipeline(transaction=False) as pipe:
            for key, made in newest.items():
                features: Any = {name: "" if value is None else value for name, value in made.items()}
                pipe.hset(f"{self._entity}:{key}", mapping=features)
            pipe.execute()

    def snapshot(self) -> None:
        return


class Log(FixedPartitionedSink[bytes, int]):
    """Appends to a JSON-lines file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log.jsonl"

    def list_parts(self) -> list[str]:
        return ["0"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> LogPart:
        return LogPart(self._path, resume_state or 0)


class LogPart(StatefulSinkPartition[bytes, int]):
    """Truncate the file to its last durable length, so that rows are in it exactly once."""

    def __init__(self, path: Path, length: int) -> None:
        self._file = path.open("ab")
        self._file.truncate(length)

    def write_batch(self, values: list[bytes]) -> None:
        self._file.write(b"".join([value + b"\n" for value in values]))

    def snapshot(self) -> int:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()


def parse(payload: bytes) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(payload)
    event["ts"] = datetime.fromisoformat(event["event_timestamp"]).timestamp()
    return event


def valid(event: dict[str, Any]) -> bool:
    return bool(
        event["event_id"] and event["account_id"] and event["merchant_id"] and 0 <= event["amount"] <= 1e9
    )


def build(url: str, folder: Path, most: list[int]) -> Dataflow:
    """`most`: events of each partition it stops at."""
    flow = Dataflow("w1_idiom")
    payloads = op.input("source", flow, Source(url, most))  # bytes
    events = op.filter("check", op.map("parse", payloads, parse), valid)  # dict
    lines = op.map("line", events, lambda event: ("0", orjson.dumps(event)))
    op.output("log", lines, Log(folder))
    by_account = op.key_on("by_account", events, lambda event: event["account_id"])
    by_merchant = op.key_on("by_merchant", events, lambda event: event["merchant_id"])
    accounts = op.stateful_map("account", by_account, account)  # (account_id, features)
    merchants = op.stateful_map("merchant", by_merchant, merchant)  # (merchant_id, features)
    accounts = op.map("to_account", accounts, lambda item: ("0", item))
    merchants = op.map("to_merchant", merchants, lambda item: ("0", item))
    op.output("online_account", accounts, Online(url, "account"))
    op.output("online_merchant", merchants, Online(url, "merchant"))
    return flow


def main() -> None:
    """`python -m bench.w1_idiom URL FOLDER EVENTS_PER_PARTITION`: print `ready`, wait for a line, run until killed."""
    url, folder, most = sys.argv[1], Path(sys.argv[2]), [int(count) for count in sys.argv[3:]]
    with tempfile.TemporaryDirectory(dir=folder) as recovery:
        init_db_dir(Path(recovery), 2)
        flow = build(url, folder, most)
        print("ready", flush=True)
        sys.stdin.readline()
        cli_main(
            flow,
            epoch_interval=timedelta(seconds=1),
            recovery_config=RecoveryConfig(recovery, timedelta(0)),
        )


if __name__ == "__main__":
    main()
