"""Print dead letters: counts by reason with a few examples, or each with its payload."""

from __future__ import annotations

from collections import Counter
from typing import Final

import typer

from flows.redrive.already_sent import SentLetters
from flows.redrive.letters import Wanted, closed, name_of, opened
from flows.settings import FlowSettings
from flows.streams import EventStream

_EXAMPLES: Final = 3


def count(stream: EventStream, settings: FlowSettings, wanted: Wanted) -> None:
    """Print the number of dead letters per reason, how many of them were sent again, and the first details."""
    went = SentLetters(stream, settings).names
    counts: Counter[str] = Counter()
    back: Counter[str] = Counter()
    details: dict[str, list[str]] = {}
    for row in closed(stream, settings, wanted):
        reason = row["reason"]
        counts[reason] += 1
        back[reason] += name_of(stream, row) in went
        some = details.setdefault(reason, [])
        if len(some) < _EXAMPLES and row["detail"] not in some:
            some.append(row["detail"])
    typer.echo(f"{stream.name}: {counts.total():,} dead letters{_back(back.total())}")
    for name, number in counts.most_common():
        typer.echo(f"  {name:<10} {number:>9,}{_back(back[name])}")
        for detail in details[name]:
            typer.echo(f"      {detail}")


def show(stream: EventStream, settings: FlowSettings, wanted: Wanted) -> None:
    """Print every selected letter, with its payload on the next line."""
    for row in opened(stream, settings, wanted):
        typer.echo(
            f"{row['source_partition']} {row['source_offset']} {row['event_timestamp']} {row['reason']}: {row['detail']}"
        )
        payload = row["payload"]
        typer.echo(
            "    (withheld)" if payload is None else f"    {payload.decode(errors='backslashreplace')}"
        )


def _back(number: int) -> str:
    return f", {number:,} sent again" if number else ""
