"""`flows.redrive send` is killed at random moments and started again: each dead letter is on the bus exactly once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Final
from unittest.mock import patch

import redis
from typer.testing import CliRunner

from flows.bootstrap import run
from flows.local.redis_server import EmbeddedServer
from flows.redrive.command import app
from flows.settings import FlowSettings
from tests.kits.payments import encoded, payment, write_lines

TRIALS: Final = 50
_fork = multiprocessing.get_context("fork")


def trial(seed: int, letters: int = 3_000, kills: int = 5) -> str:
    """One file of repaired letters."""
    draw = random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "server") as server,
        patch.dict(
            os.environ,
            {"MILLSTREAM_HOME": folder, "REDIS_URL": server.url, "MILLSTREAM_PSEUDONYM_KEY": "off"},
        ),
    ):
        home = Path(folder)
        bad = write_lines(home / "in.jsonl", [encoded(payment(n, amount=-1.0)) for n in range(letters)])
        run("payments", FlowSettings(source_files=str(bad), epoch_ms=50, dead_letter_limit=1.0))
        assert CliRunner().invoke(app, ["export", str(home / "out.jsonl")]).exit_code == 0
        path = home / "repaired.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for line in (home / "out.jsonl").read_text(encoding="utf-8").splitlines():
                letter = json.loads(line)
                letter["event"]["amount"] = 1.0
                file.write(json.dumps(letter) + "\n")
        client = redis.Redis.from_url(server.url)
        on_the_way = 0
        for _ in range(kills):
            before = len(_ids(client))
            process = _fork.Process(target=_send, args=(path,))
            process.start()
            while process.is_alive() and len(_ids(client)) == before:
                time.sleep(0.001)
            time.sleep(draw.random() * 0.02)
            process.kill()
            process.join()
            on_the_way += before < len(_ids(client)) < letters
        done = CliRunner().invoke(app, ["send", str(path)])
        assert done.exit_code == 0, done.output
        found = _ids(client)
        assert len(found) == len(set(found)) == letters, (
            f"{len(found)} events, {len(set(found))} different ones"
        )
        assert not client.keys("millstream:redriving:*")
    return f"{letters:,} letters, {on_the_way} of {kills} kills while sending, each letter on the bus once"


def _send(path: Path) -> None:
    CliRunner().invoke(app, ["send", str(path)])
    os._exit(0)


def _ids(client: redis.Redis) -> list[str]:
    return [
        json.loads(fields[b"v"])["event_id"]
        for partition in range(4)
        for _, fields in client.xrange(f"millstream:payments:{partition}")  # type: ignore[union-attr]
    ]
