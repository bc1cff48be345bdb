"""Someone with a valid key tries to learn about another tenant's accounts; no attempt reads anything of them.

A trial makes 100 attempts against a real `python -m serving` with a model and a store, as single requests and batches:
other payers, other payees, batches with one foreign payment, other spellings of names, keys combined from two, keys in
unusual places, unusual paths. An attempt is harmless if its answer is a refusal that says nothing about the account
(or, for a permitted key, the answer to its own payment) and the store's own counter shows no hash read in between.
"""

from __future__ import annotations

import atexit
import functools
import http.client
import json
import random
import shutil
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from serving.admission import api_keys
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import own_home, world

TRIALS = 10
TRIES = 100


class Bank(NamedTuple):
    """A scorer, two keys, and the accounts of their tenants."""

    netloc: str
    ours: str
    theirs: str
    our_accounts: list[str]
    their_accounts: list[str]


@functools.cache
def bank() -> Bank:
    """Start one scorer for all trials of this process; each of two tenants has half of the accounts."""
    stack = ExitStack()
    home = own_home(Path(tempfile.mkdtemp(prefix="millstream-tenants-")))
    atexit.register(shutil.rmtree, home, True)
    atexit.register(stack.close)
    names = sorted(set(world().payments["account_id"].to_pylist()))
    digit = next(i for i in range(len(names[0])) if len({name[: i + 1] for name in names}) > 1)
    prefixes = sorted({name[: digit + 1] for name in names})
    now = datetime.now(UTC)
    ours, our_key = api_keys.make("ours", "us", ["score"], prefixes[:1], rate=1e9, now=now)
    theirs, their_key = api_keys.make(
        "theirs", "them", ["score", "model", "admin"], prefixes[1:], rate=1e9, now=now
    )
    api_keys.write(home / "api_keys.json", [ours, theirs])
    address = stack.enter_context(
        running_scorer(
            home, world().url, short=True, MILLSTREAM_DEADLINE_MS="2000", MILLSTREAM_SCORE_LOG="false"
        )
    )
    mine = [name for name in names if name.startswith(prefixes[0])]
    return Bank(urlsplit(address).netloc, our_key, their_key, mine, sorted(set(names) - set(mine)))


def reads() -> int:
    """How many hashes the server has read since its start."""
    stats = cast("dict[str, Any]", world().client.info("commandstats"))
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("hmget", "zrange"))


def trial(seed: int) -> str:
    """One trial; see the module."""
    draw = random.Random(seed)
    there = bank()
    before = reads()
    assert _ask(there.ours, "/score", _payment(draw.choice(there.our_accounts)))[0] == 200
    assert reads() > before, "a payment of the own tenant reads no hash"
    before = reads()
    for _ in range(TRIES):
        key, path, body, victim = _try(draw)
        status, said = _ask(key, path, body)
        assert status in {400, 401, 403, 404, 405, 422}, (path, body, status, said)
        assert victim.encode() not in said
        assert reads() == before, (path, body)
    status, said = _ask(there.theirs, "/score", _payment(draw.choice(there.their_accounts)))
    assert status == 200, (status, said)
    return f"{TRIES} attempts, {reads() - before} foreign hash reads"


def _payment(account: str, **changes: str) -> dict[str, Any]:
    # The newest payment of a world may be a transfer, to an account of either tenant.
    return world().payment(type="PAYMENT", merchant_id="m-0001") | {"account_id": account} | changes


def _try(draw: random.Random) -> tuple[str, str, Any, str]:
    """(key, path, body, the account it is after)."""
    there = bank()
    victim, own = draw.choice(there.their_accounts), draw.choice(there.our_accounts)
    ours, theirs = there.ours.split("_"), there.theirs.split("_")
    foreign = _payment(victim)
    written = draw.choice(
        (
            victim,
            victim.upper(),
            f" {victim}",
            f"{victim}\0",
            f"\ufeff{victim}",
            victim.replace("-", "\u2010"),
            f"{victim} {own}",
        )
    )
    batch = [_payment(draw.choice(there.our_accounts)) for _ in range(draw.randrange(1, 20))]
    batch.insert(draw.randrange(len(batch) + 1), foreign)
    doubled = json.dumps(_payment(own))[:-1] + f', "account_id": {json.dumps(victim)}}}'
    escaped = json.dumps(foreign).replace(victim, "".join(f"\\u{ord(c):04x}" for c in victim))
    key, path, body = draw.choice(
        (
            (there.ours, "/score", foreign),
            (there.ours, "/score", _payment(written)),
            (there.ours, "/score", _payment(own, type="TRANSFER", merchant_id=victim)),
            (there.ours, "/score/batch", {"payments": batch}),
            (there.ours, "/score", doubled.encode()),
            (there.ours, "/score", escaped.encode()),
            (
                there.ours,
                draw.choice(
                    ("/score/", "//score", "/score/../score", "/score%00", "/readyz", "/metrics", "/model")
                ),
                foreign,
            ),
            ("_".join([ours[0], theirs[1], ours[2]]), "/score", foreign),
            ("_".join([theirs[0], theirs[1], "a" * 52]), "/score", foreign),
            ("_".join([theirs[0], theirs[1], ""]), "/score", foreign),
            (there.theirs[:-1], "/score", foreign),
            (there.theirs.upper(), "/score", foreign),
            (f"{there.ours},{there.theirs[:-1]}", "/score", foreign),
            ("", "/score", foreign),
        )
    )
    return key, path, body, victim


def _ask(key: str, path: str, body: Any) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(bank().netloc, timeout=60)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body), headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    return answer.status, said
