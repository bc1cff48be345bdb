"""Compile or load everything a request can reach, before the scorer says that it is ready.

`python -m serving.models.warm_up` compiles the kernels into the kernel cache and needs no Redis and no model: a
container image is built with it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numba
import numpy as np
import structlog

from feature_repo.stores.reader.plan import FLOAT, Plan, WindowedRead
from feature_repo.stores.reader.reader import Reader
from feature_repo.stores.redis_layout.keys import state_field
from feature_repo.windows.columns import Events
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import ViewState
from serving.api.requests import EXAMPLE, Payment
from serving.models.reasons import explain

if TYPE_CHECKING:
    from serving.models.model import Model
    from serving.models.onnx_trees import Trees

log = structlog.get_logger(__name__)

_NOW_US: Final = 1_700_000_000_000_000
_SECOND_US: Final = 1_000_000
_HOUR_US: Final = 3600 * _SECOND_US


def warm_kernels() -> None:
    """Compile or load the kernels that read and fold states, for every kind of view and independent of a model."""
    hour = (("count", "event_id"), ("sum", "amount"), ("last", "amount"))
    kinds: Mapping[str, tuple[int, Sequence[tuple[str, str]]]] = {
        "exact": (0, (*hour, ("count_distinct", "merchant_id"), ("decayed_sum", "amount"))),
        "tiled": (60 * _SECOND_US, (*hour, ("std", "amount"), ("mean_hop_max", "amount"))),
        "sketch": (60 * _SECOND_US, (("median", "amount"),)),
    }
    specs = [
        ViewSpec(
            name=f"{key}_{kind}",
            join_keys=(key,),
            hop_us=hop_us,
            capacity=4,
            grace_us=0,
            aggregates=tuple(
                Aggregate(f"{key}_{kind}_{function}", function, column, _HOUR_US)
                for function, column in functions
            ),
        )
        for key in ("account_id", "merchant_id")
        for kind, (hop_us, functions) in kinds.items()
    ]
    plan = Plan(
        project="warm_up",
        service="warm_up",
        windowed=tuple(WindowedRead(spec, spec.join_keys, "payments") for spec in specs),
        plain=(),
        on_demand=(),
        request=(),
        columns=tuple((name, FLOAT) for spec in specs for name in spec.feature_names),
    )
    _warm_reader(Reader(plan, Path()))


def warm_model(model: Model) -> None:
    """Run once what a request does with this model: features, pending payments, scores, reasons and the fallback.

    An exception of a feature function is only logged: the function may work for real payments.
    """
    _warm_trees(model)
    if model.fallback is not None:
        _warm_trees(model.fallback)
    try:
        model.reader.of_request(_row("warm-up"), _NOW_US)
        _warm_reader(model.reader)
    except Exception:  # a feature function may raise anything
        log.exception("model.not_warmed", version=model.version)


def _warm_trees(trees: Trees) -> None:
    rows, _ = trees.golden
    for n in (1, 2, len(rows)):
        trees.predict(rows[:n])
    explain(trees, rows[0], 1)


def _warm_reader(reader: Reader) -> None:
    """Finish vectors of a key without and with states, without and with pending payments."""
    row, states = _row("warm-up"), {state_field(r.spec): _state(r.spec) for r in reader.plan.windowed}
    empty = [[None] * len(fields) for _, fields in reader.commands(row)]
    known = [[states.get(field) for field in fields] for _, fields in reader.commands(row)]
    vector = reader.vector(row, empty, _NOW_US, _NOW_US)
    keys = reader.pending.keys(row)
    members = [
        reader.pending.member(_row(event_id), vector.named, event_id, _NOW_US - before * _SECOND_US)
        for before, event_id in enumerate(("pending-1", "pending-2"), 1)
    ]
    for replies in (empty, known):
        for lists in ([], [members[:1]] * len(keys), [members] * len(keys)):
            reader.vector(row, replies, _NOW_US, _NOW_US, lists)


def _state(spec: ViewSpec) -> bytes:
    """A packed state with two events."""
    ints = np.zeros((2, 3 + len(spec.hashed)), np.int64)
    ints[:, 0] = _NOW_US - 2 * _HOUR_US, _NOW_US - _SECOND_US
    state, slot = ViewState(spec), np.zeros(1, np.int64)
    state.fold(np.zeros(2, np.int64), Events(ints, np.ones((2, len(spec.values)))))
    return state.pack(slot)[0].tobytes()


def _row(event_id: str) -> dict[str, Any]:
    """The example payment as the scorer's rows hold one."""
    payment = Payment.model_construct(**EXAMPLE | {"event_id": event_id})
    return payment.__dict__ | {"payment_id": event_id}


def main() -> None:
    """Compile the kernels into the cache."""
    argparse.ArgumentParser(prog="python -m serving.models.warm_up", description=__doc__).parse_args()
    began = time.perf_counter()
    warm_kernels()
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or numba.config.CACHE_DIR)  # type: ignore[attr-defined]
    files = len(list(folder.rglob("*.nbc")))
    print(f"{files} compiled kernels in {folder} ({time.perf_counter() - began:.1f} s)")


if __name__ == "__main__":
    main()
