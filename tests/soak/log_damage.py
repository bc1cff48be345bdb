"""Log files are cut at every byte or have flipped bits; every reader detects it.

A log file is damaged in every way (a sample of ways if it is long) and given to each of its readers: replay at the
start of a flow, the scan of the offline store, the DuckDB joins of plain views and of training, and backfill. Each
must refuse it and name the file, or return the original rows if the damage changed nothing. Every fifth trial runs a
whole flow: it must not start on a damaged published file and must name it; a staged file that never became durable is
dropped.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from feature_repo.errors import LogError
from feature_repo.stores.event_log.read import read_log
from feature_repo.streams.payments import PAYMENTS
from flows.accept.decode import Decoder
from flows.blocks import RawBlock
from flows.log.epoch_files import Folders, StagedPart
from flows.log.files import log_files
from flows.settings import FlowSettings
from flows.window_state.replay import LogReplay
from tests.kits.flow_output import dead_letter_rows, log_rows
from tests.kits.flow_process import running_flow
from tests.kits.payments import encoded, payment, publish
from tests.kits.views import VIEWS
from tests.soak._stores import differing, stage
from training import labels

TRIALS = 40
SAMPLE = 3_000
"""The most damaged versions per trial."""


def trial(seed: int) -> str:
    """One file, or one flow."""
    return flow_trial(seed) if seed % 5 == 4 else file_trial(seed)


def file_trial(seed: int, sample: int = SAMPLE) -> str:
    """Damage one file in many ways and give it to every reader."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = FlowSettings(home=Path(folder))
        path = _file(settings, draw, rows=draw.choice([1, 7, 300]))
        whole = path.read_bytes()
        truth = {name: look(settings) for name, look in READERS.items()}
        ways = [*_cuts(whole), *_flips(whole, draw, sample)]
        refused = harmless = 0
        for damaged in draw.sample(ways, min(len(ways), sample)):
            path.write_bytes(damaged)
            for name, look in READERS.items():
                try:
                    found = look(settings)
                except LogError as error:
                    said = str(error)
                    refused += 1
                else:
                    said = path.name
                    assert _same(found, truth[name]), f"{name} accepts a damaged file"
                    harmless += 1
                assert path.name in said, f"{name}: {said}"
        return f"{len(whole):,} bytes: {refused:,} reads refused with the file's name, {harmless:,} with the original rows"


def flow_trial(seed: int) -> str:
    """Start one flow on a file that was damaged while it was down."""
    draw = random.Random(seed)
    with stage() as (server, settings):
        client = redis.Redis.from_url(server.url)
        publish(client, [encoded(payment(n)) for n in range(400)])
        with running_flow(settings) as flow:
            flow.wait_for(lambda: log_rows(settings).num_rows == 400)
            flow.wait_for(lambda: differing(settings, client) == 0)
        for folder in settings.checkpoints.rglob("*.npz"):
            folder.unlink()  # so that the log has to be read
        path = draw.choice(sorted(settings.payments_log.glob("*.parquet")))
        undurable = settings.staging / "payments" / "bus-0000009999.parquet"
        whole = path.read_bytes()
        path.write_bytes(draw.choice([*_cuts(whole), *_flips(whole, draw, 50)]))
        with running_flow(settings, output=server.home / "output.log") as flow:
            code = flow.exit_code(60)
        said = (server.home / "output.log").read_text().splitlines()[-1]
        assert code == 2, f"the flow accepts a damaged file: {said}"
        assert path.name in said, said
        path.write_bytes(whole)
        undurable.write_bytes(whole[: draw.randrange(len(whole))])
        publish(client, [encoded(payment(n)) for n in range(400, 500)])
        with running_flow(settings) as flow:
            flow.wait_for(lambda: log_rows(settings).num_rows == 500)
            flow.wait_for(lambda: differing(settings, client) == 0)
        assert not undurable.exists()
        assert not dead_letter_rows(settings)
    return said


def _file(settings: FlowSettings, draw: random.Random, rows: int) -> Path:
    events = [
        encoded(payment(draw.randrange(10_000), amount=draw.randrange(10_000) / 100)) for _ in range(rows)
    ]
    block = RawBlock("bus:payments:0", -1, np.arange(rows), np.arange(rows) * 1_000_000, events)
    decoded = Decoder(PAYMENTS)(block).rows
    columns = [
        decoded[f.name] if f.name in decoded.schema.names else pa.nulls(rows, f.type)
        for f in PAYMENTS.log_schema
    ]
    folders = Folders("payments", settings.payments_log, settings.staging / "payments")
    part = StagedPart("bus", folders, PAYMENTS.log_schema, None)
    part.write_batch([pa.RecordBatch.from_arrays(columns, schema=PAYMENTS.log_schema)])
    part.snapshot()
    part.snapshot()
    (path,) = settings.payments_log.glob("*.parquet")
    return path


def _cuts(whole: bytes) -> Iterator[bytes]:
    return (whole[:n] for n in range(len(whole)))


def _flips(whole: bytes, draw: random.Random, n: int) -> Iterator[bytes]:
    """Copies with one flipped bit, several flipped bits, or a run of zeros."""
    for _ in range(n):
        damaged = bytearray(whole)
        if draw.random() < 0.1:
            at = draw.randrange(len(whole))
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        else:
            for _ in range(draw.choice([1, 1, 1, 2, 5])):
                damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        if damaged != whole:
            yield bytes(damaged)


def _replayed(settings: FlowSettings) -> Any:
    """What a flow and a backfill fold."""
    replay = LogReplay(PAYMENTS, settings, VIEWS.entities("payments"))
    pieces = [
        piece
        for file in log_files(PAYMENTS, settings)
        for entity in VIEWS.entities("payments")
        for piece in replay.pieces(file, entity)
    ]
    made: list[Any] = []
    for p in pieces:
        rows = p.rows
        made += [rows.entity, rows.shard, p.partition, p.offsets.tobytes(), rows.keys.data.tobytes()]
        made += [c.ints.tobytes() + c.floats.tobytes() for c in rows.columns]
    return made


def _offsets(settings: FlowSettings) -> Any:
    """What is read from the footers only."""
    return LogReplay(PAYMENTS, settings, VIEWS.entities("payments")).published_offsets()


def _scanned(settings: FlowSettings) -> Any:
    return read_log(settings.payments_log)


def _for_training(settings: FlowSettings) -> Any:
    files = labels.log_files(settings.payments_log, "payments")
    return labels.read_window(settings.payments_log, since=None, until=None, cutoff=None), len(files)


READERS: dict[str, Callable[[FlowSettings], Any]] = {
    "replay": _replayed,
    "offsets": _offsets,
    "offline store": _scanned,
    "training": _for_training,
}


def _same(found: Any, truth: Any) -> bool:
    return bool(found.equals(truth) if isinstance(truth, pa.Table) else found == truth)
