"""`python -m flows.retire`: list the versions of windowed views that are kept, and delete earlier ones.

A changed or removed view stays kept as an earlier version, because a model trained on it still reads it. Without
options this lists all versions with the models that read them. `--version` (or `--view`, or `--unused` for all that no
model reads) retires earlier versions: they are removed from `views.json`, a running flow starts itself again without
them, and then their states are deleted from Redis. A version that the champion or a challenger reads is only retired
with `--force`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from feature_repo.errors import DefinitionError, MillstreamError
from feature_repo.settings import RepoSettings
from feature_repo.stores.applied_views import AppliedViews, group_by_stream, read_views, write_views
from feature_repo.stores.reader.plan import Plan
from feature_repo.stores.redis_layout.keys import key_prefix, state_field, version_id
from feature_repo.stores.redis_layout.view_versions import KeptVersions, publish, versions_key
from feature_repo.windows.spec import ViewSpec
from flows.online.sink import connect, no_answer
from flows.process import logs
from flows.settings import FlowSettings
from flows.window_state.folded_views import read_handover, write_handover

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, help=__doc__)

NOTICED_AFTER_SECONDS: Final = 5.0
"""When flows and scorers have surely noticed a retirement; states are deleted after that."""
IN_USE: Final = ("champion", "challengers")
_AT_ONCE: Final = 1_000


@dataclass(frozen=True)
class Kept:
    """One version: the stream it is folded from, whether the repo defines it now, and the models that read it."""

    stream: str
    spec: ViewSpec
    current: bool
    readers: tuple[str, ...]
    in_use: tuple[str, ...]
    """The readers that are a champion or a challenger."""

    @property
    def version(self) -> str:
        """Eight hex digits."""
        return version_id(self.spec).partition(":")[2]


def kept_versions(settings: RepoSettings, views: AppliedViews) -> list[Kept]:
    """All versions, by view name; the current one first."""
    readers, in_use = _readers(settings.models)
    found = []
    for stream in sorted({*views.streams, *views.earlier}):
        for spec in views.kept(stream):
            of = version_id(spec)
            found.append(
                Kept(
                    stream,
                    spec,
                    spec in views.streams.get(stream, ()),
                    tuple(readers.get(of, ())),
                    tuple(in_use.get(of, ())),
                )
            )
    return sorted(found, key=lambda kept: (kept.spec.name, not kept.current))


def retire(settings: FlowSettings, which: Sequence[Kept], *, force: bool = False) -> None:
    """Retire earlier versions. Raises `DefinitionError` for a current one, and for one in use without `force`."""
    for kept in which:
        name = version_id(kept.spec)
        if kept.current:
            raise DefinitionError(
                f"{name} is what the repo defines now",
                todo="change or remove the view and run `feast apply` first",
            )
        if kept.in_use and not force:
            raise DefinitionError(
                f"{name} is read by {', '.join(kept.in_use)}",
                todo="train and promote a model on the new version first, or use --force: "
                "the answers of that model will be degraded",
            )
    gone = {version_id(kept.spec) for kept in which}
    path = settings.home / "views.json"
    views = read_views(path)
    earlier = [(s, v) for s, specs in views.earlier.items() for v in specs if version_id(v) not in gone]
    left = replace(views, earlier=group_by_stream(earlier))
    for stream in {kept.stream for kept in which}:
        write_handover(settings, stream, read_handover(settings, stream) - gone)
    write_views(path, left)
    client = connect(settings)
    publish(client, views.project, left.every_kept())
    time.sleep(NOTICED_AFTER_SECONDS)
    for kept in which:
        _delete_states(client, views.project, kept.spec)


def _delete_states(client: Any, project: str, spec: ViewSpec) -> int:
    """Delete a version's field from every key of its entity; returns how many keys had it."""
    field, deleted = state_field(spec), 0
    keys: list[bytes] = []
    pattern = _literal(key_prefix(spec.join_keys)) + b"*" + _literal(project.encode())
    for key in client.scan_iter(pattern, count=_AT_ONCE):
        keys.append(key)
        if len(keys) == _AT_ONCE:
            deleted += _hdel(client, keys, field)
            keys = []
    return deleted + _hdel(client, keys, field)


def _hdel(client: Any, keys: Iterable[bytes], field: bytes) -> int:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hdel(key, field)
        return int(sum(pipe.execute()))


def _literal(text: bytes) -> bytes:
    """Escape bytes for Redis's MATCH pattern."""
    return b"".join(b"\\" + bytes((b,)) if b in b"*?[]\\" else bytes((b,)) for b in text)


def _readers(models: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """By version: the models whose plan reads it, and those of them that are a champion or a challenger."""
    readers: dict[str, list[str]] = {}
    in_use: dict[str, list[str]] = {}
    for path in sorted(models.glob("*/*/plan.json")):
        try:
            plan = Plan.load(path)
        except DefinitionError:
            continue  # a plan that no scorer loads
        aliases = [alias for alias in IN_USE if path.parent.name in _names(path.parent.parent / alias)]
        name = f"{path.parent.parent.name} {path.parent.name}"
        for read in plan.windowed:
            readers.setdefault(version_id(read.spec), []).append(name)
            if aliases:
                in_use.setdefault(version_id(read.spec), []).append(f"{aliases[0]} {name}")
    return readers, in_use


def _names(alias: Path) -> list[str]:
    return alias.read_text(encoding="utf-8").split() if alias.is_file() else []


@app.command()
def main(
    view: Annotated[str, typer.Option(help="Retire the earlier versions of this view")] = "",
    version: Annotated[str, typer.Option(help="Retire this version only, such as 1f00ba47")] = "",
    *,
    unused: Annotated[bool, typer.Option("--unused", help="Retire earlier versions no model reads")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Retire it even if a champion or a challenger reads it")
    ] = False,
) -> None:
    """List the versions that are kept, or retire some."""
    settings = FlowSettings()
    logs.configure(settings.log_format)
    try:
        views = read_views(settings.home / "views.json")
        every = kept_versions(settings, views)
        if not (view or version or unused):
            fields = connect(settings).hkeys(versions_key(views.project))
            Console().print(_table(every, KeptVersions.of(fields)))
            return
        which = [
            kept
            for kept in every
            if view in ("", kept.spec.name)
            and (kept.version == version if version else not kept.current)
            and not (unused and kept.readers)
        ]
        if not which:
            typer.echo("no such earlier version: nothing to do")
            return
        retire(settings, which, force=force)
        for kept in which:
            typer.echo(f"retired {version_id(kept.spec)}")
    except (MillstreamError, RedisError) as error:
        message = no_answer(error, settings) if isinstance(error, RedisError) else error
        typer.secho(str(message), fg="red", err=True)
        raise typer.Exit(2) from error


def _table(every: Sequence[Kept], known: KeptVersions) -> Table:
    table = Table("view", "version", "", "online", "read by")
    for kept in every:
        table.add_row(
            kept.spec.name,
            kept.version,
            "current" if kept.current else "earlier",
            "filled" if known.is_filled(kept.spec) else "not filled",
            "\n".join(kept.in_use or kept.readers) or "no model",
        )
    return table


if __name__ == "__main__":
    app()
