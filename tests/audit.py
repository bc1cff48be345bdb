"""`python -m tests.audit`: report known vulnerabilities in the packages of requirements.lock.

pip-audit is asked, first with PyPI's database, then with OSV's. Where neither is reachable nothing is known, and that
is said in one line: pip-audit itself counts a package it got no answer about as one without findings. Exit code 1:
there are some, or a package the database does not know. Options are passed on to pip-audit (`--ignore-vuln ID`).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

LOCK: Final = Path(__file__).parent.parent / "requirements.lock"
DATABASES: Final = {"PyPI": ("-s", "pypi"), "OSV": ("-s", "osv")}


def main() -> int:
    """Audit the lock of this project."""
    return audit(LOCK, DATABASES, sys.argv[1:])


def audit(lock: Path, databases: dict[str, tuple[str, ...]], options: Sequence[str] = ()) -> int:
    """Ask the first database that answers; `databases` are pip-audit's options by name. Return the exit code."""
    reasons = []
    for name, choice in databases.items():
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as one:
            one.write(
                re.split(r"^(?=\w)", lock.read_text(encoding="utf-8"), maxsplit=2, flags=re.MULTILINE)[1]
            )
            one.flush()
            reason = _unknown(_asked(Path(one.name), choice))
        if not reason:
            return _told(_asked(lock, [*choice, *options]), lock.name, name)
        reasons.append(f"{name}: {reason}")
    print(f"audit skipped, no vulnerability database is reachable ({'; '.join(reasons)})")
    return 0


def _asked(requirements: Path, options: Sequence[str]) -> list[dict[str, Any]] | str:
    """The findings of pip-audit, one entry per package; its last line of output if it failed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--requirement", str(requirements)),
            *("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json", *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    return found


def _unknown(found: list[dict[str, Any]] | str) -> str:
    """Why a database gave no answer; empty if it gave one."""
    if isinstance(found, str):
        return "no connection" if "onnection" in found else found
    return next(("it does not know even " + p["name"] for p in found if "skip_reason" in p), "")


def _told(found: list[dict[str, Any]] | str, lock: str, database: str) -> int:
    if isinstance(found, str):
        print(f"the audit failed: {found}")
        return 1
    findings = [
        f"{package['name']} {package['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'no version'}"
        for package in found
        for v in package.get("vulns", [])
    ] + [package["skip_reason"] for package in found if "skip_reason" in package]
    print(*findings, sep="\n", end="\n" if findings else "")
    print(f"{lock}: {len(found)} packages, {len(findings) or 'no'} findings, by {database}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
