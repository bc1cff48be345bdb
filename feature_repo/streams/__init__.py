"""One file per stream: everything that is to be known about a kind of event, declared in one place.

`STREAMS` holds what the files of this folder declare. To add a stream, add a file (docs/add-a-stream.md).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from feature_repo.declare.stream import EventStream
from feature_repo.enrichment.joins import AsOfJoin, IdJoin, Join
from feature_repo.errors import DefinitionError

__all__ = ["STREAMS", "EventStream", "referenced"]


def discover(folder: Path, package: str) -> dict[str, EventStream]:
    """Return the streams that the modules of a folder declare, by name, each after the streams it is joined with.

    Raises `DefinitionError` when a module declares no stream of its own name, or a join names what does not exist.
    """
    found: dict[str, EventStream] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        module = import_module(f"{package}.{path.stem}")
        streams = {s.name: s for s in vars(module).values() if isinstance(s, EventStream)}
        if path.stem not in streams:
            raise DefinitionError(
                f"the file declares no stream {path.stem!r}",
                where=path,
                todo=f'declare one: {path.stem.upper()} = EventStream(name="{path.stem}", ...)',
            )
        found[path.stem] = streams[path.stem]
    for stream in found.values():
        for join in stream.joins:
            _check_join(stream, join, found)
    return in_order(found)


def in_order(streams: dict[str, EventStream]) -> dict[str, EventStream]:
    """Return the streams sorted so that each comes after those it is joined with: the order of a backfill.

    Of two streams that are joined with each other, the one with the `AsOfJoin` comes later.
    """
    ordered: dict[str, EventStream] = {}
    visited: set[str] = set()

    def visit(stream: EventStream) -> None:
        if stream.name in visited:
            return
        visited.add(stream.name)
        for join in stream.joins:
            other = streams[join.stream]
            mutual = any(isinstance(j, AsOfJoin) and j.stream == stream.name for j in other.joins)
            if isinstance(join, AsOfJoin) or not mutual:
                visit(other)
        ordered[stream.name] = stream

    for stream in streams.values():
        visit(stream)
    return ordered


def _check_join(stream: EventStream, join: Join, streams: dict[str, EventStream]) -> None:
    where = f"stream {stream.name}"
    other = streams.get(join.stream)
    if other is None:
        raise DefinitionError(
            f"it is joined with {join.stream!r}, which no file declares",
            where=where,
            todo=f"name one of: {', '.join(streams)}",
        )
    wanted = {*join.columns, *((join.their_key,) if isinstance(join, AsOfJoin) else ())}
    missing = sorted(wanted - set(other.log_schema.names))
    if missing:
        raise DefinitionError(
            f"it is joined with {join.stream}, which has no {', '.join(missing)}",
            where=where,
            todo=f"name columns of {join.stream}'s log",
        )
    if (
        isinstance(join, IdJoin)
        and stream.schema.field(join.key).type != other.schema.field(other.id_column).type
    ):
        raise DefinitionError(
            f"{join.key} is not of the type of {other.id_column} of {join.stream}",
            where=where,
            todo="make both texts",
        )


STREAMS: Final = discover(Path(__file__).parent, __name__)
"""Every declared stream by name; each comes after those it is joined with."""


def referenced() -> list[str]:
    """Return the names of the streams whose events other streams refer to by id (`IdJoin`), sorted."""
    return sorted({other for stream in STREAMS.values() for other in stream.refers_to.values()})
