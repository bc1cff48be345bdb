"""A scorer that says it is ready has compiled everything a request can reach, also with an empty kernel cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from feature_repo.settings import PROJECT_ROOT
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import own_home, world

DEADLINE_MS = 1000
"""What is not compiled takes seconds; a machine that runs other tests meanwhile does not take this long."""


def compiled(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*.nbc")}


def payments() -> list[dict[str, Any]]:
    """One account again and again, then others; every payment is pending for those after it."""
    newest = world().payment()
    again = [{**newest, "event_id": f"again-{i}", "amount": 10.0 + i} for i in range(8)]
    others = [{**world().payment(-i), "event_id": f"other-{i}"} for i in range(2, 12)]
    unknown = [{**newest, "event_id": f"new-{i}", "account_id": "a-nobody-knows"} for i in range(3)]
    return again + others + unknown


def score_all(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=60) as client:
        checks = {check["name"]: check for check in client.get("/readyz").json()["checks"]}
        assert checks["model"]["ok"], checks
        assert checks["store"]["ok"], checks
        for payment in payments():
            began = time.perf_counter()
            answer = client.post("/score", json=payment).json()
            assert time.perf_counter() - began < DEADLINE_MS / 1000, payment["event_id"]
            assert not answer["degraded"], answer["degraded_reasons"]
        batch = client.post("/score/batch", json={"payments": payments()}).json()["answers"]
        assert not any(answer["degraded"] for answer in batch)


@pytest.mark.parametrize("short", [True, False], ids=["python -m serving", "uvicorn serving.app:app"])
def test_with_an_empty_kernel_cache_nothing_is_compiled_late_or_degraded_once_it_is_ready(
    short: bool, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with running_scorer(
        own_home(tmp_path),
        world().url,
        short=short,
        XDG_CACHE_HOME=str(cache),
        MILLSTREAM_PENDING_SECONDS="900",
        MILLSTREAM_DEADLINE_MS=str(DEADLINE_MS),
    ) as url:
        ready = compiled(cache)
        assert ready
        score_all(url)
    assert compiled(cache) == ready


def test_an_image_s_compiled_kernels_are_used_by_a_new_home_and_nothing_is_compiled(tmp_path: Path) -> None:
    built = tmp_path / "image"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MILLSTREAM_", "REDIS_"))}
    subprocess.run(
        [sys.executable, "-m", "serving.models.warm_up"],
        cwd=PROJECT_ROOT,
        env=environment | {"XDG_CACHE_HOME": str(built)},
        check=True,
        timeout=300,
    )
    shipped = {path.relative_to(built): path.stat().st_mtime_ns for path in built.rglob("*")}
    for path in built.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    cache = tmp_path / "cache"
    with running_scorer(
        own_home(tmp_path),
        world().url,
        XDG_CACHE_HOME=str(cache),
        COMPILED_KERNELS_DIR=str(built / "millstream"),
        MILLSTREAM_PENDING_SECONDS="900",
        MILLSTREAM_DEADLINE_MS=str(DEADLINE_MS),
    ) as url:
        score_all(url)
    assert compiled(cache) == compiled(built)
    assert {path.relative_to(built): path.stat().st_mtime_ns for path in built.rglob("*")} == shipped
