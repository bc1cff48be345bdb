"""Any arrival order of the same payments gives the same rows in the log and the same bytes in the online store.

Orders stay within the allowed lateness; some payments are sent twice, blocks have any size, and there are several
partitions. Hypothesis draws payments and their delays. A trial tries 24 orders in the simulation (`tests.sim`: the
real steps and sinks on a model of Bytewax, with one worker, two workers or two processes) and one with a real flow on
a real server; a full run tries 500. Each is compared with a run that got every payment once in time order. Compared
are the columns of the events; columns about the arrival differ by nature (place on the bus, accept time, what was
joined or derived at that moment).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import hypothesis
import redis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from pydantic import SecretStr

from feature_repo.streams.payments import PAYMENTS
from flows.local.redis_server import EmbeddedServer
from flows.settings import FlowSettings
from tests.kits.flow_output import log_rows, states_online
from tests.kits.flow_process import running_flow
from tests.kits.payments import START, encoded, payment
from tests.kits.views import apply_views
from tests.sim.traffic import ACCEPTED, START_US, Judge, Published
from tests.soak import sim

TRIALS: Final = 20
SHUFFLES: Final = 25
LATENESS_S: Final = 600
Told = tuple[list[str], dict[bytes, list[bytes]]]
"""What must not depend on the order: rows, and bytes of the store."""


@dataclass(frozen=True)
class Sent:
    """A payment: seconds after the beginning, seconds it is under way, and whether a copy follows after how many
    more.
    """

    number: int
    at: float
    delay: float
    copy_after: float | None
    account: int

    @property
    def event(self) -> dict[str, Any]:
        """As its producer made it."""
        return payment(self.number, START + timedelta(seconds=self.at), account_id=f"a{self.account}")


@st.composite
def payments(draw: st.DrawFn) -> list[Sent]:
    """Many ties, delays at the edge of the lateness, a few accounts; over up to two hours, so that the watermark moves
    on.
    """
    found = []
    span = draw(st.sampled_from([0, 60, 600, 3_600, 7_000]))
    for number in range(draw(st.integers(1, 60))):
        at = draw(st.integers(0, span)) + draw(st.sampled_from([0.0, 0.0, 0.5, 0.000001]))
        delay = draw(st.one_of(st.just(0.0), st.just(float(LATENESS_S)), st.floats(0, LATENESS_S)))
        copy_after = draw(st.one_of(st.none(), st.none(), st.floats(0, LATENESS_S - delay)))
        found.append(Sent(number, at, delay, copy_after, draw(st.integers(0, 4))))
    return found


def arrivals(sent: Sequence[Sent]) -> list[Sent]:
    """In the order they arrive, copies too: who arrives before one was made at most the lateness after it."""
    moments = [(one.at + one.delay, one.number, one) for one in sent]
    moments += [(m + one.copy_after, n, one) for m, n, one in moments if one.copy_after is not None]
    return [one for *_, one in sorted(moments, key=lambda moment: moment[:2])]


class Simulated(sim.Trial):
    """One life without crashes that is given its payments."""

    def __init__(self, seed: int, home: Path, order: Sequence[Sent], block_events: int) -> None:
        super().__init__(4 * seed + 1, home)
        self.settings = self.settings.model_copy(update={"block_events": block_events})
        self.crashes_left = 0
        self.to_publish = len(order)
        self._order = iter(order)
        self._judges = [Judge() for _ in range(sim.PARTITIONS)]

    def _publish(self) -> None:
        one = next(self._order)
        partition = one.account % sim.PARTITIONS
        judge, now = self._judges[partition], self.world.clock.us
        time_us = START_US + round(one.at * 1e6)
        fate = judge.decide("", one.event["event_id"], time_us, now // 1000 * 1000)
        entry = Published(partition, encoded(one.event), fate, new_payee=True)
        made = self.world.bus.add(f"millstream:payments:{partition}", entry.payload)
        self.published[f"bus:payments:{partition}", sim.offset_of(f"{made[0]}-{made[1]}")] = entry
        self.to_publish -= 1

    def told(self) -> Told:
        """After the run. The independent judge has agreed by then."""
        return rows_of(self.settings), states_online(sim._Reader(self.world.store.hashes))  # type: ignore[arg-type]


def rows_of(settings: FlowSettings) -> list[str]:
    """What the log says of the events, up to order."""
    rows = log_rows(settings)
    names = [name for name in PAYMENTS.schema.names if name in rows.column_names]
    return sorted(map(repr, rows.select(names).to_pylist()))


def simulated(seed: int, order: Sequence[Sent], block_events: int) -> Told:
    """A life in the simulation."""
    home = Path(tempfile.mkdtemp(prefix="millstream-shuffle-", dir=sim._folder()))
    try:
        trial = Simulated(seed, home, order, block_events)
        trial.run()
        accepted = sum(entry.fate == ACCEPTED for entry in trial.published.values())
        assert accepted == len({one.number for one in order}), "an event within the lateness was refused"
        return trial.told()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def real(seed: int, order: Sequence[Sent], block_events: int) -> Told:
    """A flow process on a server of its own."""
    del seed
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        settings = FlowSettings(
            home=Path(folder) / "home",
            redis_url=server.url,
            epoch_ms=100,
            block_events=block_events,
            pseudonym_key=SecretStr("off"),
        )
        settings.home.mkdir()
        apply_views(settings)
        client = redis.Redis.from_url(server.url)
        with running_flow(settings) as process:
            with client.pipeline(transaction=False) as pipe:
                for one in order:
                    partition = one.account % settings.bus_partitions
                    pipe.xadd(f"millstream:payments:{partition}", {"v": encoded(one.event)})
                pipe.execute()
            process.wait_for_events(len(order), 240)
            time.sleep(0.3)
        return rows_of(settings), states_online(client)


def trial(seed: int, shuffles: int = SHUFFLES, real_ones: int = 1) -> str:
    """Some shuffles in the simulation, then real ones."""
    tried = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=shuffles,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(payments(), st.sampled_from([1, 2, 3, 5, 8, 64]))
    def shuffle(sent: list[Sent], block_events: int) -> None:
        nonlocal tried
        tried += 1
        run = simulated if tried <= shuffles - real_ones else real
        in_order = sorted(sent, key=lambda one: (one.at, one.number))
        assert run(seed + tried, arrivals(sent), block_events) == run(seed, in_order, 64)

    shuffle()
    return f"{tried} arrival orders, the same rows and bytes"
