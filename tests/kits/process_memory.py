"""The memory of a process in MiB, from /proc; 0 where there is no /proc."""

from __future__ import annotations

from pathlib import Path


def resident_mb(pid: int | None) -> int:
    """Resident memory now."""
    return _status(pid, "VmRSS:")


def peak_mb(pid: int | None) -> int:
    """The peak of resident memory."""
    return _status(pid, "VmHWM:")


def _status(pid: int | None, name: str) -> int:
    path = Path(f"/proc/{pid}/status")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(name)), 0)
