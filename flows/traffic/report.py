"""What live traffic has seen, as JSON: replaced whole, once a second, so that others can follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from feature_repo.files import write_atomically
from flows.traffic.freshness import FreshnessProbe
from flows.traffic.scoring import Asker


def percentiles(values: list[float]) -> dict[str, float | int | None]:
    """Samples, p50, p90, p99 and the largest; null without samples.

    >>> percentiles([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    seen = list(values)  # other threads go on appending
    if not seen:
        return {"samples": 0, "p50": None, "p90": None, "p99": None, "max": None}
    p50, p90, p99 = np.percentile(seen, [50, 90, 99]).round(2).tolist()
    return {"samples": len(seen), "p50": p50, "p90": p90, "p99": p99, "max": round(max(seen), 2)}


def write(
    path: Path,
    *,
    published: dict[str, int],
    warm_up: dict[str, Any],
    asker: Asker | None,
    probe: FreshnessProbe | None,
    done: bool,
) -> None:
    """Replace the report; `published` counts events by stream."""
    made: dict[str, Any] = {**published, "warm_up": warm_up, "done": done}
    if asker is not None:
        made |= {
            "requests": asker.answered,
            "failed": sum(asker.statuses.values()) - asker.answered,
            "last_failure": asker.last_failure,
            "degraded": asker.degraded,
            "decisions": dict(asker.decisions),
            "latency_ms": percentiles(asker.latencies_ms),
        }
    if probe is not None:
        made["freshness_ms"] = percentiles(probe.milliseconds) | {"unreadable": probe.unreadable}
    write_atomically(path, orjson.dumps(made, option=orjson.OPT_INDENT_2), durable=False)
