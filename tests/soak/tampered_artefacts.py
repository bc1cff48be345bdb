"""An artefact that was changed after its promotion is refused, and the model before it stays in use.

Someone who may write to a version's directory, but not to the alias, changes bytes, length or name of a file; adds or
removes files; adds links, also to other directories; or rewrites the manifest (thresholds, paths outside the
directory, absolute paths, golden predictions, matching hashes). Or the alias itself is damaged. The seed decides kind
and place.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from feature_repo.champion_alias import MANIFEST
from serving import bootstrap
from serving.models.champion import Champion
from serving.models.model import Model
from tests.kits.served_model import VERSION, own_home, world
from training import artefact

TRIALS: Final = 1_000
SECOND: Final = "20261123T000000Z-00000002"


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def _flip(place: Path, chance: random.Random) -> None:
    path = chance.choice(_files(place))
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 1, 8))):
        at = chance.randrange(len(content))
        content[at] ^= 1 << chance.randrange(8)
    if bytes(content) == path.read_bytes():
        content[0] ^= 1
    path.write_bytes(content)


def _truncate(place: Path, chance: random.Random) -> None:
    path = chance.choice(_files(place))
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def _append(place: Path, chance: random.Random) -> None:
    with chance.choice(_files(place)).open("ab") as file:
        file.write(chance.choice((b"\0", b" ", b"\n", chance.randbytes(100))))


def _swap(place: Path, chance: random.Random) -> None:
    one, other = chance.sample(_files(place), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _from_another_version(place: Path, chance: random.Random) -> None:
    names = ["model.onnx", "model.ubj", MANIFEST]
    name = chance.choice(names)
    shutil.copy(place.parent / VERSION / name, place / name)


def _lose(place: Path, chance: random.Random) -> None:
    chance.choice(_files(place)).unlink()


def _lose_all(place: Path, _: random.Random) -> None:
    shutil.rmtree(place)


def _add(place: Path, chance: random.Random) -> None:
    name = chance.choice(
        ("extra.onnx", "manifest.json.bak", ".hidden", "model.onnx ", "sub/model.onnx", "on_demand.py")
    )
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(chance.randbytes(chance.choice((0, 10, 1000))))


def _link(place: Path, chance: random.Random) -> None:
    path = chance.choice(_files(place))
    copy = place.parent / ".elsewhere"
    shutil.copy(path, copy)
    path.unlink()
    path.symlink_to(chance.choice((copy, Path("..") / copy.name, Path("/dev/zero"))))


def _extra_link(place: Path, chance: random.Random) -> None:
    (place / "link").symlink_to(
        chance.choice((Path("/etc"), Path("/etc/hostname"), Path(".."), Path("nowhere"), place))
    )


def _linked_directory(place: Path, _: random.Random) -> None:
    place.rename(place.parent / ".moved")
    place.symlink_to(place.parent / ".moved")


def _pipe(place: Path, chance: random.Random) -> None:
    path = place / chance.choice(("pipe", "model.onnx", MANIFEST))
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _directory_for_a_file(place: Path, chance: random.Random) -> None:
    path = chance.choice(_files(place))
    path.unlink()
    path.mkdir()


OUTSIDE: Final = (
    "../../../../etc/hostname", "/etc/hostname", "..", "../champion", "a/../../x", "./model.onnx", "", ".", "model.onnx\0", "\\..\\x",
)  # fmt: skip


def _edit(place: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and make its own hashes consistent again."""
    path = place / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest, indent=2) + "\n")


def _lead_outside(place: Path, chance: random.Random) -> None:
    digest = hashlib.sha256(chance.randbytes(8)).hexdigest()
    _edit(place, lambda m: m["files"].update({chance.choice(OUTSIDE): digest}))


def _threshold(place: Path, chance: random.Random) -> None:
    limits = chance.choice(((2.0, 2.0), (0.0, 2.0), (1.0, 1.0), (1e-9, 1.0), (float("nan"), 1.0)))
    _edit(place, lambda m: m["threshold"].update(review=limits[0], decline=limits[1]))


def _say_otherwise(place: Path, chance: random.Random) -> None:
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda m: m.pop(chance.choice(sorted(m))),
        lambda m: m.update(version=VERSION),
        lambda m: m.update(schema_hash="0" * 64),
        lambda m: m["features"].reverse(),
        lambda m: m["onnx"].update(fraud_column=0),
        lambda m: m.update(files={}),
        lambda m: m.update(files=[]),
        lambda m: m.update(files=dict.fromkeys(m["files"], "0" * 64)),
        lambda m: m["golden"]["predictions"].__setitem__(0, 0.5),
        lambda m: m["golden"].update(inputs=[], predictions=[]),
        lambda m: m.update(typical=dict.fromkeys(m["features"], 1000000000.0)),
        lambda m: m["metrics"].clear(),
    ]
    _edit(place, chance.choice(changes))


def _with_hashes_that_fit(place: Path, chance: random.Random) -> None:
    """Other trees with a matching manifest: consistent, but not what was promoted."""
    shutil.copy(place.parent / VERSION / "model.onnx", place / "model.onnx")
    golden = json.loads((place.parent / VERSION / MANIFEST).read_text())["golden"]
    digest = hashlib.sha256((place / "model.onnx").read_bytes()).hexdigest()
    _edit(place, lambda m: (m["files"].update({"model.onnx": digest}), m.update(golden=golden)))
    if chance.random() < 0.5:
        shutil.copy(place.parent / VERSION / "model.ubj", place / "model.ubj")
        digest = hashlib.sha256((place / "model.ubj").read_bytes()).hexdigest()
        _edit(place, lambda m: m["files"].update({"model.ubj": digest}))


def _no_manifest(place: Path, chance: random.Random) -> None:
    (place / MANIFEST).write_bytes(
        chance.choice((b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"files": {}}'))
    )


def _spoil_alias(place: Path, chance: random.Random) -> None:
    alias = place.parent / "champion"
    digest = alias.read_text().split()[1]
    lines = (
        "../elsewhere", "/etc", "", "..", ".", f"{SECOND}/../{VERSION} {digest}", SECOND, f"{SECOND} sha256:", f"{SECOND} {digest[:-1]}",
        f"{SECOND} sha256:{'0' * 64}", f"{SECOND} {digest}\n{VERSION}", f"{SECOND}\0 {digest}", f"{SECOND} {digest.upper()}", "x" * 100_000,
        f"20990101T000000Z-00000000 {digest}",
    )  # fmt: skip
    alias.write_text(chance.choice(lines))


def _alias_is_no_file(place: Path, chance: random.Random) -> None:
    alias = place.parent / "champion"
    alias.unlink()
    if chance.random() < 0.5:
        alias.mkdir()
    elif chance.random() < 0.5:
        alias.symlink_to(Path("/dev/null"))


KINDS: Final = (
    _flip, _truncate, _append, _swap, _from_another_version, _lose, _lose_all, _add, _link, _extra_link, _linked_directory, _pipe,
    _directory_for_a_file, _lead_outside, _threshold, _say_otherwise, _with_hashes_that_fit, _no_manifest, _spoil_alias, _alias_is_no_file,
)  # fmt: skip


@functools.cache
def _template() -> tuple[Path, Model]:
    """A model folder with two versions, and the first of them loaded."""
    home = own_home(Path(tempfile.mkdtemp(prefix="millstream-tampered-", dir=world().home)))
    folder = home / "models" / "fraud_detection"
    world().write_model(folder, SECOND, rounds=7)
    artefact.promote(folder, VERSION)
    champion = Champion(folder, bootstrap.REPO, threads=1)
    champion.refresh()
    assert champion.current is not None, champion.problem
    return folder, champion.current


def trial(seed: int) -> str:
    """Tamper with one artefact in one way; a running and a starting scorer must both refuse it."""
    kind = KINDS[seed % len(KINDS)]
    template, before = _template()
    folder = Path(tempfile.mkdtemp(prefix="millstream-tampered-")) / "fraud_detection"
    try:
        shutil.copytree(template, folder)
        running = Champion(folder, bootstrap.REPO, threads=1)
        running.current = before
        artefact.promote(folder, SECOND)
        kind(folder / SECOND, random.Random(seed))
        running.refresh()
        running.refresh()
        assert running.current is before, f"{kind.__name__} was not noticed by a running scorer"
        assert running.problem, f"{kind.__name__} was not reported"
        starting = Champion(folder, bootstrap.REPO, threads=1)
        starting.refresh()
        assert starting.current is None, f"{kind.__name__} was not noticed by a starting scorer"
        assert starting.problem == running.problem
        return f"{kind.__name__.strip('_')}: {running.problem[:100]}"
    finally:
        shutil.rmtree(folder.parent)
