"""From payments to answers: one pipelined read, a vector per payment as of its own time, one call of the model.

Account and payee are replaced by their pseudonyms first, so everything that is read, logged and answered holds
pseudonyms only.

Nothing that a payment, the store or a feature function does makes this raise: if there is no score for any reason, the
fallback decides in time and the answer says why. Clocks are passed in.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import structlog

from feature_repo.errors import OnlineStoreError, StateError
from feature_repo.privacy import Pseudonyms, domain_of
from feature_repo.stores.clock import to_us
from feature_repo.stores.reader.pending import MAX_LISTED
from feature_repo.stores.reader.reader import Vector
from feature_repo.streams.payments import PAYMENTS
from serving import metrics
from serving.api.requests import Payment
from serving.health.view_versions import ViewVersionMonitor
from serving.models.champion import Champion
from serving.models.fallback import Fallback
from serving.models.model import Model
from serving.models.reasons import explain
from serving.outputs.score_log import ScoreLog
from serving.outputs.score_topic import ScoreTopic
from serving.store.connection import StoreConnection, StoreFailure
from serving.store.resp import ReadPacker, pack

log = structlog.get_logger(__name__)

CHUNK: Final = 16
"""Payments of a batch that are finished in one turn of the event loop: about 3 ms."""
PAYMENT_KEY: Final = "payment_id"
"""Join key of the entity `payment`."""
FROM: Final = b"-%d" % MAX_LISTED
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_IDS: Final = random.Random()
"""Seeded by the system once per process; asking the system for every id would cost a system call each."""
_DECIDED: Final = {d: metrics.PAYMENTS.labels(d) for d in ("approve", "review", "decline")}
_BY: Final = {by: metrics.DECIDED_BY.labels(by) for by in ("model", "fallback_model", "fallback_rules")}


@dataclass(slots=True)
class Case:
    """One payment on its way to an answer. Times are int64 UTC us; `now_us` is the wall clock when it arrived.

    `row` has the columns of the request; `replies` are those of `Reader.commands`, in their order.
    """

    payment: Payment
    row: dict[str, Any]
    as_of_us: int
    now_us: int
    replies: list[list[bytes | None]] = field(default_factory=list)
    lists: list[list[bytes]] = field(default_factory=list)
    """Members of the payment's pending lists (`feature_repo.stores.reader.pending`); payments of one batch share
    those of a key."""
    vector: Vector | None = None
    score: float | None = None
    decision: str = ""
    decided_by: str = "model"
    reasons: list[dict[str, Any]] = field(default_factory=list)
    member: bytes = b""
    """The payment as a member of its pending lists."""
    failure: tuple[str, str] | None = None
    """Why there is no vector or no score: (code, detail) of `degraded_reasons`."""


class Scorer:
    """Scores payments.

    `clock` returns int64 UTC us; deadlines (`until`) are instants of `time.perf_counter`, in seconds.

    `pending_seconds` is how long a scored payment counts for later ones of its keys; 0 keeps no pending payments.
    """

    def __init__(
        self,
        champion: Champion,
        fallback: Fallback,
        score_log: ScoreLog | None,
        clock: Callable[[], int],
        pseudonyms: Pseudonyms,
        versions: ViewVersionMonitor,
        *,
        max_reasons: int,
        pending_seconds: float,
        score_topic: ScoreTopic | None = None,
    ) -> None:
        self.champion = champion
        self.clock = clock
        self._fallback = fallback
        self._logs = [log for log in (score_log, score_topic) if log is not None]
        self._pseudonyms = pseudonyms
        self._personal = [(column, domain_of(column, how)) for column, how in PAYMENTS.personal.items()]
        self._versions = versions
        self._max_reasons = max_reasons
        self._pending_us = round(pending_seconds * 1e6)
        self._packers: dict[str, ReadPacker] = {}

    async def score(
        self, payment: Payment, now_us: int, store: StoreConnection, until: float
    ) -> dict[str, Any]:
        """Return the answer to one payment, in the shape of `responses.Answer`; the store may take until `until`."""
        case = self._case(payment, now_us)
        model = self.champion.current
        if model is None:
            case.failure = ("no_model", self.champion.problem)
        elif problem := self._versions.problem(model):
            case.failure = ("state_mismatch", problem)
        elif await self._read(model, [case], store, until):
            self._finish(model, case)
            if case.vector is not None:
                self._write_pending(model, [case], store)
                self._decide(model, [case])
                self._explain(model, [case], until)
        return self._answer(model, case)

    async def score_batch(
        self, payments: Sequence[Payment], now_us: int, store: StoreConnection, until: float
    ) -> list[dict[str, Any]]:
        """Return the answers to many payments, in order: one read, and one call of the model outside the event loop."""
        cases = [self._case(payment, now_us) for payment in payments]
        model = self.champion.current
        if model is None:
            for case in cases:
                case.failure = ("no_model", self.champion.problem)
        elif problem := self._versions.problem(model):
            for case in cases:
                case.failure = ("state_mismatch", problem)
        elif await self._read(model, cases, store, until):
            in_time = sorted(cases, key=lambda case: case.as_of_us)  # each counts as pending for later ones
            for start in range(0, len(cases), CHUNK):
                late = time.perf_counter() > until
                for case in in_time[start : start + CHUNK]:
                    if late:
                        case.failure = ("deadline", "the batch's deadline had passed before this payment")
                    else:
                        self._finish(model, case)
                await asyncio.sleep(0)
            ready = [case for case in cases if case.vector is not None]
            if ready:
                self._write_pending(model, ready, store)
                await asyncio.to_thread(self._decide, model, ready)
                await asyncio.to_thread(self._explain, model, ready, until)
        answers = []
        for i, case in enumerate(cases):
            answers.append(self._answer(model, case))
            if i % CHUNK == 0:
                await asyncio.sleep(0)
        return answers

    async def _read(self, model: Model, cases: Sequence[Case], store: StoreConnection, until: float) -> bool:
        """Read what the vectors need, each hash once, into the cases. Return False if it failed; sets their failure."""
        packer = self._packers.get(model.version)
        if packer is None:
            self._packers = {model.version: (packer := ReadPacker())}
        places: dict[tuple[bytes, int], int] = {}
        reads: list[tuple[bytes, list[bytes]]] = []
        wanted = []
        for case in cases:
            mine = []
            for key, fields in model.reader.commands(case.row):
                place = places.setdefault((key, id(fields)), len(reads))
                if place == len(reads):
                    reads.append((key, fields))
                mine.append(place)
            wanted.append(mine)
        if not reads:  # a service of on-demand features only
            return True
        pending = self._pending_keys(model, cases)
        request = packer.pack(reads) + pack([[b"ZRANGE", key, FROM, b"-1"] for key in pending])
        try:
            replies = await store.send(request, len(reads) + len(pending), until - time.perf_counter())
        except OnlineStoreError as error:
            code = error.code if isinstance(error, StoreFailure) else "store_error"
            for case in cases:
                case.failure = (code, str(error))
            return False
        lists = dict(zip(pending, replies[len(reads) :], strict=True))
        for case, mine in zip(cases, wanted, strict=True):
            case.replies = [replies[place] for place in mine]
            if self._pending_us:
                case.lists = [lists.get(key, []) for key in model.reader.pending.keys(case.row)]
        return True

    def _pending_keys(self, model: Model, cases: Sequence[Case]) -> list[bytes]:
        """Return the keys of these payments' pending lists, each once."""
        if not self._pending_us:
            return []
        keys = (key for case in cases for key in model.reader.pending.keys(case.row))
        return list(dict.fromkeys(filter(None, keys)))

    def _write_pending(self, model: Model, cases: Sequence[Case], store: StoreConnection) -> None:
        """Add payments to their pending lists, and remove what has reached the states or is too old.

        Sent before the answer without waiting: the server executes it before anything the client sends after its
        answer.
        """
        pending = model.reader.pending
        if not self._pending_us or not pending.columns:
            return
        commands: list[list[bytes]] = []
        expire = b"%d" % (self._pending_us // 1000)
        for case in cases:
            assert case.vector is not None
            settled, oldest = case.vector.pending.settled, case.now_us - self._pending_us
            if case.as_of_us < oldest:
                continue
            too_old = b"(%d" % oldest
            score = b"%d" % case.as_of_us
            for number, key in enumerate(pending.keys(case.row)):
                if not key:
                    continue
                commands.append([b"ZADD", key, score, case.member])
                commands.append([b"PEXPIRE", key, expire])
                commands.append([b"ZREMRANGEBYSCORE", key, b"-inf", too_old])
                if settled and settled[number]:
                    commands.append([b"ZREM", key, *settled[number]])
        if commands:
            store.send_nowait(pack(commands), len(commands))

    def _finish(self, model: Model, case: Case) -> None:
        try:
            reader = model.reader
            case.vector = reader.vector(case.row, case.replies, case.as_of_us, case.now_us, case.lists)
            if case.lists:
                case.member = reader.pending.member(
                    case.row, case.vector.named, case.payment.event_id, case.as_of_us
                )
                for members in case.lists:  # later payments of the batch share these lists
                    members.append(case.member)
        except StateError as error:
            case.failure = ("state_mismatch", str(error))
        except Exception as error:  # a feature function may raise anything
            log.exception("features.failed", event_id=case.payment.event_id)
            case.failure = ("internal", f"features could not be computed: {type(error).__name__}")

    def _decide(self, model: Model, cases: Sequence[Case]) -> None:
        try:
            vectors = [case.vector.values for case in cases if case.vector is not None]
            scores = model.predict(vectors[0][None] if len(vectors) == 1 else np.stack(vectors))
        except Exception as error:  # the runtime raises many kinds, all of its own
            log.exception("model.failed", version=model.version)
            for case in cases:
                case.failure = ("internal", f"the model could not score: {type(error).__name__}")
            return
        for case, score in zip(cases, scores.tolist(), strict=True):
            if score == score:  # noqa: PLR0124  NaN
                case.score = score
                case.decision = model.decide(score)
            else:
                case.failure = ("internal", "the model returned NaN")

    def _explain(self, model: Model, cases: Sequence[Case], until: float) -> None:
        """Add reasons to reviews and declines, until the deadline."""
        for case in cases:
            if case.score is None or case.vector is None or case.decision == "approve":
                continue
            if time.perf_counter() > until:
                return
            with np.errstate(over="ignore"):
                case.reasons = explain(model, case.vector.values.astype(np.float32), self._max_reasons)

    def _answer(self, model: Model | None, case: Case) -> dict[str, Any]:
        """Build the answer of a case, count it and log it."""
        failure, vector = case.failure, case.vector
        if failure is not None:
            case.decision, case.reasons, case.score, case.decided_by = self._fallback.decide(
                model, case.payment, case.row, case.as_of_us
            )
            metrics.DEGRADED.labels(failure[0]).inc()
        newest = None if vector is None else vector.newest_us
        age = None if newest is None else (case.as_of_us - newest) / 1e6
        answer = {
            "score_id": f"{_IDS.getrandbits(128):032x}",
            "event_id": case.payment.event_id,
            "score": case.score,
            "decision": case.decision,
            "decided_by": case.decided_by,
            "reasons": case.reasons,
            "model": None if model is None else {"name": model.name, "version": model.version},
            "as_of": _EPOCH + timedelta(microseconds=case.as_of_us),
            "features_freshness": {
                "newest_event_timestamp": None if newest is None else _EPOCH + timedelta(microseconds=newest),
                "age_seconds": age,
            },
            "degraded": failure is not None,
            "degraded_reasons": [] if failure is None else [{"code": failure[0], "detail": failure[1]}],
            "incomplete": [] if vector is None else vector.incomplete,
            "capped": [] if vector is None else vector.capped,
        }
        self._count(case, age)
        if self._logs:
            record = self._record(model, case, answer)
            for log in self._logs:
                log.append(record)
        return answer

    def _count(self, case: Case, age: float | None) -> None:
        _DECIDED[case.decision].inc()
        _BY[case.decided_by].inc()
        if case.score is not None and case.failure is None:
            metrics.SCORES.observe(case.score)
        if age is not None:
            metrics.FEATURE_AGE.observe(age)
        if case.vector is not None:
            if case.vector.pending.missing:
                metrics.PENDING.inc(case.vector.pending.missing)
            for view in case.vector.incomplete:
                metrics.INCOMPLETE.labels(view).inc()
            for view in case.vector.capped:
                metrics.CAPPED.labels(view).inc()

    def _record(self, model: Model | None, case: Case, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the record for the score log, with all that a skew report needs to compute the vector again."""
        vector = case.vector
        row = case.row | {"event_timestamp": case.row["event_timestamp"] and case.as_of_us}
        named = (
            {}
            if model is None or vector is None
            else dict(zip(model.features, map(vector.named.get, model.features), strict=True))
        )
        return {
            "score_id": answer["score_id"],
            "scored_at": self.clock(),
            "as_of": case.as_of_us,
            **row,
            "score": case.score,
            "decision": case.decision,
            "decided_by": case.decided_by,
            "model_name": None if model is None else model.name,
            "model_version": None if model is None else model.version,
            "degraded": answer["degraded"],
            "degraded_reasons": answer["degraded_reasons"],
            "features": named,
            "versions": {} if vector is None else vector.versions,
            "newest_event": None if vector is None else vector.newest_us,
            "pending": 0 if vector is None else vector.pending.missing,
            "arrived_at": case.now_us,
            "flags": {"incomplete": answer["incomplete"], "capped": answer["capped"]},
        }

    def _case(self, payment: Payment, now_us: int) -> Case:
        """Return the case of a payment, with pseudonyms in place of account and payee."""
        of, plain = self._pseudonyms.of, payment.__dict__
        changes = {column: of(plain[column], domain) for column, domain in self._personal}
        payment = payment.model_copy(update=changes)
        when = payment.event_timestamp
        row = payment.__dict__ | {PAYMENT_KEY: payment.event_id}
        return Case(payment, row, now_us if when is None else to_us(when), now_us)
