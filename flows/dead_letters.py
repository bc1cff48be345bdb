"""`python -m flows.dead_letters`: why events were not accepted and, for who holds the key, what they were."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final

import pyarrow as pa
import typer

from feature_repo import privacy
from feature_repo.errors import MillstreamError
from flows.connectors.dead_letters import read, unseal
from flows.sealing import key_of
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)

_EXAMPLES: Final = 3


@app.command()
def main(
    stream: Annotated[str | None, typer.Option(help=f"One of: {', '.join(STREAMS)}; default: all")] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print every letter with its payload, opened with the key")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Only those of a reason, such as check")] = None,
) -> None:
    """Count dead letters by reason with a few details, or print them all. Settings come from MILLSTREAM_... variables."""
    if stream is not None and stream not in STREAMS:
        raise typer.BadParameter(f"no stream {stream!r}; there are: {', '.join(STREAMS)}")
    settings = FlowSettings()
    wanted = [STREAMS[stream]] if stream else list(STREAMS.values())
    try:
        for one in wanted:
            if show:
                _show(one, settings, reason)
            else:
                _count(one, settings, reason)
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error


def _count(stream: EventStream, settings: FlowSettings, reason: str | None) -> None:
    """How many of each reason, and the first details."""
    counts: Counter[str] = Counter()
    details: dict[str, list[str]] = {}
    for letters in read(stream, settings):
        for row in letters.select(["reason", "detail"]).to_pylist():
            if reason in (None, row["reason"]):
                counts[row["reason"]] += 1
                some = details.setdefault(row["reason"], [])
                if len(some) < _EXAMPLES and row["detail"] not in some:
                    some.append(row["detail"])
    typer.echo(f"{stream.name}: {counts.total():,} dead letters")
    for name, count in counts.most_common():
        typer.echo(f"  {name:<10} {count:>9,}")
        for detail in details[name]:
            typer.echo(f"      {detail}")


def _show(stream: EventStream, settings: FlowSettings, reason: str | None) -> None:
    """Every letter, its payload on a line of its own."""
    pseudonyms = privacy.of_settings(settings)
    for letters in read(stream, settings):
        wanted = letters
        if reason is not None:
            wanted = letters.filter(pa.array([name == reason for name in letters["reason"].to_pylist()]))
        if any(key_of(payload or b"") is not None for payload in wanted["payload"].to_pylist()):
            wanted = unseal(wanted, stream, pseudonyms)
        for row in wanted.to_pylist():
            typer.echo(
                f"{row['source_partition']} {row['source_offset']} {row['event_timestamp']} {row['reason']}: {row['detail']}"
            )
            payload = row["payload"]
            typer.echo(
                "    (withheld)" if payload is None else f"    {payload.decode(errors='backslashreplace')}"
            )


if __name__ == "__main__":
    app()
