"""The measurements of live traffic as a JSON file, which is replaced once a second so that a run can be followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from feature_repo.files import write_atomically
from flows.traffic.freshness import FreshnessProbe
from flows.traffic.scoring import ScoreClient


def percentiles(values: list[float]) -> dict[str, float | int | None]:
    """Return number of samples, p50, p90, p99 and maximum; null without samples.

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
    scores: ScoreClient | None,
    probe: FreshnessProbe | None,
    done: bool,
) -> None:
    """Replace the report. `published` holds the number of events per stream; times are in milliseconds."""
    made: dict[str, Any] = {**published, "warm_up": warm_up, "done": done}
    if scores is not None:
        made |= {
            "requests": scores.answered,
            "failed": scores.failed,
            "last_failure": scores.last_failure,
            "degraded": scores.degraded,
            "decisions": dict(scores.decisions),
            "latency_ms": percentiles(scores.latencies_ms),
        }
    if probe is not None:
        made["freshness_ms"] = percentiles(probe.milliseconds) | {"unreadable": probe.unreadable}
    write_atomically(path, orjson.dumps(made, option=orjson.OPT_INDENT_2), durable=False)
