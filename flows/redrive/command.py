"""`python -m flows.redrive`: publish repaired dead letters to the bus or Kafka again.

    python -m flows.redrive list                                   numbers by reason, and how many were sent already
    python -m flows.redrive export letters.jsonl --reason check    one dead letter per line, decrypted
    python -m flows.redrive send letters.jsonl                     after the repair: publish each line once

Lines that are still invalid are rejected with line number and reason; the others are sent. Each letter is sent once,
so the same file can be sent again after repairing the rejected lines, or after an interruption. The dead letters
themselves are kept. Late events are still late: `send --late-to FILE` writes them to a file for a backfill
(docs/dead-letters.md).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Final

import typer

from feature_repo.errors import DataError, MillstreamError
from feature_repo.files import replaced
from flows.accept.avro import avro_reader
from flows.redrive import listing
from flows.redrive.already_sent import SentLetters, redrive_lock
from flows.redrive.bus import Bus
from flows.redrive.letters import Wanted, closed, name_of, opened
from flows.redrive.lines import Repaired, as_line, lines_of
from flows.redrive.recheck import Fit, Recheck
from flows.redrive.topic import Topic
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_show_locals=False,
    no_args_is_help=True,
    help=__doc__,
    rich_markup_mode=None,
)

Stream = Annotated[str | None, typer.Option("--stream", help=f"One of: {', '.join(STREAMS)}; default: all")]
Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Only dead letters of this reason, such as check; can be repeated"),
]
_FORMATS: Final = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"]
Since = Annotated[
    datetime | None,
    typer.Option("--since", formats=_FORMATS, help="Only those received at this time (UTC) or later"),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", formats=_FORMATS, help="Only those received before this time (UTC)"),
]

_PIECE: Final = 256 << 20
"""Bytes of events that are checked together."""


@app.command("list")
def list_letters(
    stream: Stream = None, reason: Reasons = None, since: Since = None, until: Until = None
) -> None:
    """Count dead letters by reason, with a few examples and how many were sent again. Needs no key."""
    with _errors():
        for one in _streams(stream):
            listing.count(one, FlowSettings(), _wanted(reason, since, until))


@app.command()
def show(stream: Stream = None, reason: Reasons = None, since: Since = None, until: Until = None) -> None:
    """Print dead letters with their decrypted payloads."""
    with _errors():
        for one in _streams(stream):
            listing.show(one, FlowSettings(), _wanted(reason, since, until))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write (JSON lines); must not exist")],
    stream: Stream = None,
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    again: Annotated[
        bool, typer.Option("--again", help="Include dead letters that were sent again already")
    ] = False,
) -> None:
    """Write dead letters to a file for repair.

    It holds the original events with personal data; only you can read it.
    """
    settings = FlowSettings()
    with _errors():
        written = withheld = 0
        with _new(out) as file:
            for one in _streams(stream):
                went = set() if again else SentLetters(one, settings).names
                reader = avro_reader(one, settings)
                for row in opened(one, settings, _wanted(reason, since, until)):
                    if row["payload"] is None:
                        withheld += 1
                    elif name_of(one, row) not in went:
                        file.write(as_line(one, row, reader))
                        written += 1
        typer.echo(f"{written:,} dead letters in {out}")
        if withheld:
            typer.echo(
                f"{withheld:,} more have no payload (erased, or stored without a key); their producer has to send them again"
            )
        typer.echo(
            f"Repair `event` on each line, delete the lines not to be sent, then run: python -m flows.redrive send {out}"
        )


@app.command()
def send(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Repaired export")],
    late_to: Annotated[
        Path | None,
        typer.Option(
            help="Write events that would be late on the bus to this file, for a backfill; must not exist"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the lines")] = False,
) -> None:
    """Publish repaired dead letters on the bus or Kafka, each once. Exit code 1 if lines were rejected."""
    settings = FlowSettings()
    with _errors(), redrive_lock(settings):
        sending = _Sending(settings, late_to, dry_run=dry_run)
        for piece in _pieces(file):
            sending.take(piece)
        sending.end(file)
    raise typer.Exit(1 if sending.refused else 0)


class _Sending:
    """One run of `send`."""

    def __init__(self, settings: FlowSettings, late_to: Path | None, *, dry_run: bool) -> None:
        self._settings, self._late_to, self._dry_run = settings, late_to, dry_run
        self._sources: dict[str, Bus | Topic] = {}
        self._sent_letters: dict[str, SentLetters] = {}
        self._letters: dict[str, set[str]] = {}
        self._rechecks: dict[str, Recheck] = {}
        self._lines: dict[str, int] = {}
        self._late: dict[str, list[Fit]] = defaultdict(list)
        self.sent = self.before = self.refused = 0

    def take(self, lines: Sequence[Repaired]) -> None:
        """Check some lines and send the valid ones."""
        wrong: list[tuple[int, str]] = []
        mine: dict[str, list[Repaired]] = defaultdict(list)
        for line in lines:
            name = line.letter.partition("/")[0]
            if line.wrong:
                wrong.append((line.number, line.wrong))
            elif name not in STREAMS or line.letter not in self._known(STREAMS[name]):
                wrong.append((line.number, f"there is no dead letter {line.letter!r} in this home"))
            elif line.letter in self._lines:
                wrong.append((line.number, f"this letter is already on line {self._lines[line.letter]}"))
            else:
                self._lines[line.letter] = line.number
                if line.letter in self._sent_letters[name].names:
                    self.before += 1
                else:
                    mine[name].append(line)
        for name, some in mine.items():
            fits, refused = self._rechecks[name](some)
            wrong += refused
            wrong += [(fit.line.number, fit.late) for fit in fits if fit.late and self._late_to is None]
            self._late[name] += [fit for fit in fits if fit.late and self._late_to is not None]
            events = [(fit.line.letter, fit.place, fit.payload) for fit in fits if not fit.late]
            self.sent += len(events) if self._dry_run else self._sources[name].put(events)
        for number, reason in sorted(wrong):
            typer.secho(f"line {number}: {reason}", fg="red", err=True)
        self.refused += len(wrong)

    def end(self, file: Path) -> None:
        """Write the late events to their file and print the totals."""
        would = "would be published" if self._dry_run else "published"
        where = "Kafka" if self._settings.source == "kafka" else "the bus"
        typer.echo(f"{self.sent:,} events {would} on {where}")
        for name, fits in self._late.items():
            if fits and self._late_to is not None:
                self._to_file(STREAMS[name], fits, self._late_to)
        if self.before:
            typer.echo(f"{self.before:,} had been sent before")
        if self.refused:
            typer.echo(f"{self.refused:,} were rejected: repair these lines and send {file} again")

    def _to_file(self, stream: EventStream, fits: list[Fit], out: Path) -> None:
        if len([name for name, some in self._late.items() if some]) > 1:
            raise DataError(
                "late events of several streams cannot share a file",
                where=out,
                todo="export and send one stream at a time (--stream)",
            )
        typer.echo(f"{len(fits):,} late events {'would be written' if self._dry_run else 'written'} to {out}")
        if self._dry_run:
            return
        with _new(out) as file:
            for fit in sorted(fits, key=lambda fit: fit.event_us):
                file.write(json.dumps(json.loads(fit.line.payload), ensure_ascii=False).encode() + b"\n")
        self._sent_letters[stream.name].record({fit.line.letter: str(out) for fit in fits})
        typer.echo(
            f"Stop the flow of {stream.name}, run: python -m flows.run {stream.name} {out}, and start it again"
        )

    def _known(self, stream: EventStream) -> set[str]:
        if stream.name not in self._letters:
            sent_letters = SentLetters(stream, self._settings)
            source = (Topic if self._settings.source == "kafka" else Bus)(
                stream, self._settings, sent_letters
            )
            source.recover()
            self._sent_letters[stream.name], self._sources[stream.name] = sent_letters, source
            self._rechecks[stream.name] = Recheck(stream, self._settings)
            self._letters[stream.name] = {
                name_of(stream, row) for row in closed(stream, self._settings, Wanted())
            }
        return self._letters[stream.name]


def _pieces(file: Path) -> Iterator[list[Repaired]]:
    piece: list[Repaired] = []
    size = 0
    for line in lines_of(file):
        piece.append(line)
        size += len(line.payload)
        if size >= _PIECE:
            yield piece
            piece, size = [], 0
    yield piece


def _streams(name: str | None) -> list[EventStream]:
    if name is not None and name not in STREAMS:
        raise typer.BadParameter(f"no stream {name!r}; there are: {', '.join(STREAMS)}")
    return [STREAMS[name]] if name else list(STREAMS.values())


def _wanted(reasons: list[str] | None, since: datetime | None, until: datetime | None) -> Wanted:
    return Wanted(tuple(reasons or ()), *(at and at.replace(tzinfo=UTC) for at in (since, until)))


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that only its owner can read; it appears when it is complete. Raises `DataError` if it exists."""
    if path.exists():
        raise DataError("this file exists already", where=path, todo="choose another name")
    with replaced(path, mode=0o600) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error
