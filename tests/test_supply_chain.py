"""What is installed is what the lock names, hash by hash; what is known to be vulnerable does not pass."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from feature_repo.settings import PROJECT_ROOT
from tests.audit import LOCK, audit

VULNERABLE = "idna"


class Database(BaseHTTPRequestHandler):
    """Speaks OSV's protocol, and knows of one vulnerable package."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        package = asked["package"]["name"]
        finding = {
            "id": "OSV-2026-1",
            "summary": "made up",
            "affected": [
                {
                    "package": {"name": package, "ecosystem": "PyPI"},
                    "versions": [asked["version"]],
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
                }
            ],
        }
        answer = json.dumps({"vulns": [finding]} if package == VULNERABLE else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def database() -> Iterator[tuple[str, ...]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def requirements() -> dict[str, str]:
    """Every requirement of the lock with its hashes, by name."""
    parts = re.split(r"^(?=\w)", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.partition("==")[0]: part for part in parts}


def test_every_locked_package_has_one_version_and_a_hash() -> None:
    for name, text in requirements().items():
        assert re.match(r"[\w.-]+(\[[\w,.-]+\])?==[\w.!+]+", text), name
        assert "--hash=sha256:" in text, name


def test_a_package_other_than_the_locked_one_is_not_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "honest-1.0-py3-none-any.whl"
    about = {
        "METADATA": "Metadata-Version: 2.1\nName: honest\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\n",
    }
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in about.items():
            file.writestr(f"honest-1.0.dist-info/{name}", text)
        file.writestr("honest.py", "")
        file.writestr("honest-1.0.dist-info/RECORD", "honest.py,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for told, works in ((digest, True), ("0" * 64, False)):
        (tmp_path / "lock").write_text(f"honest==1.0 --hash=sha256:{told}\n")
        place = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / told)]
        uv = [
            sys.executable,
            "-m",
            "uv",
            "--no-config",
            "--cache-dir",
            str(tmp_path / "cache"),
            "pip",
            "install",
        ]
        done = subprocess.run(
            [*uv, *place, "--require-hashes", "-r", str(tmp_path / "lock")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is works, done.stderr
        assert (tmp_path / told / "honest.py").exists() is works
        assert works or (told in done.stderr and digest in done.stderr)


def test_a_vulnerable_package_fails_the_audit(
    database: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "requirements.lock"
    known = requirements()
    lock.write_text(known["packaging"] + known[VULNERABLE])
    assert audit(lock, {"a database": database}) == 1
    said = capsys.readouterr().out
    assert f"{VULNERABLE} " in said
    assert "OSV-2026-1, fixed in 99.0" in said
    assert "2 packages, 1 findings" in said


def test_an_audit_without_a_database_is_skipped_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = ("-s", "osv", "--osv-url", "http://127.0.0.1:9/v1/query")
    assert audit(LOCK, {"nowhere": nowhere}) == 0
    assert (
        "skipped, no vulnerability database is reachable (nowhere: no connection)" in capsys.readouterr().out
    )


def test_only_what_the_lock_names_is_installed_in_the_image() -> None:
    text = (PROJECT_ROOT / "Containerfile").read_text(encoding="utf-8")
    for installs in re.findall(r"pip install (?:[^\n]*\\\n)*[^\n]*", text):
        assert "--require-hashes" in installs
