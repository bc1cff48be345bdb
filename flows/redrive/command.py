"""`python -m flows.redrive`: put repaired dead letters back where they came from.

    python -m flows.redrive list                                   why, how many, and what was put back already
    python -m flows.redrive export letters.jsonl --reason check    one letter per line, opened with the key
    python -m flows.redrive send letters.jsonl                     after the repair: each line back onto bus or Kafka, once

What is still bad is refused with its line and the reason, and the rest goes. A letter goes back once: send the same file again after
repairing the lines that were refused, or after an interruption. The letters themselves stay where they are. Late events are still late:
`send --late-to FILE` writes them to a file that a run over files takes (docs/dead-letters.md).
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
from flows.redrive.already_sent import Marks, held
from flows.redrive.bus import Bus
from flows.redrive.letters import Wanted, closed, name_of, opened
from flows.redrive.lines import Repaired, as_line, lines_of
from flows.redrive.recheck import Fit, Gate
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
    list[str] | None, typer.Option("--reason", help="Only those of a reason, such as check; may be repeated")
]
_FORMATS: Final = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"]
Since = Annotated[
    datetime | None, typer.Option("--since", formats=_FORMATS, help="Accepted at that time (UTC) or later")
]
Until = Annotated[
    datetime | None, typer.Option("--until", formats=_FORMATS, help="Accepted before that time (UTC)")
]

_PIECE: Final = 256 << 20
"""Bytes of events that are judged together."""


@app.command("list")
def list_letters(
    stream: Stream = None, reason: Reasons = None, since: Since = None, until: Until = None
) -> None:
    """Count dead letters by reason, with a few details and how many were put back. Needs no key."""
    with _errors():
        for one in _streams(stream):
            listing.count(one, FlowSettings(), _wanted(reason, since, until))


@app.command()
def show(stream: Stream = None, reason: Reasons = None, since: Since = None, until: Until = None) -> None:
    """Print dead letters with their payloads, opened with the key."""
    with _errors():
        for one in _streams(stream):
            listing.show(one, FlowSettings(), _wanted(reason, since, until))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write, JSON lines; must not exist yet")],
    stream: Stream = None,
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    again: Annotated[bool, typer.Option("--again", help="Also those that were put back already")] = False,
) -> None:
    """Write dead letters to a file to be repaired. It holds events as they came, personal data too: only you can read it."""
    settings = FlowSettings()
    with _errors():
        written = withheld = 0
        with _new(out) as file:
            for one in _streams(stream):
                went = set() if again else Marks(one, settings).names
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
                f"{withheld:,} more have no payload (erased, or kept without a key): their producer has to send them again"
            )
        typer.echo(
            f"Repair `event` on each line, leave out what shall not go back, then: python -m flows.redrive send {out}"
        )


@app.command()
def send(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An export, repaired")],
    late_to: Annotated[
        Path | None,
        typer.Option(
            help="Write events that would be late on the bus to this file, for a run over files; must not exist yet"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge the lines only")] = False,
) -> None:
    """Put repaired dead letters back onto the bus or Kafka, each once. Ends with 1 if lines were refused."""
    settings = FlowSettings()
    with _errors(), held(settings):
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
        self._marks: dict[str, Marks] = {}
        self._letters: dict[str, set[str]] = {}
        self._gates: dict[str, Gate] = {}
        self._lines: dict[str, int] = {}
        self._late: dict[str, list[Fit]] = defaultdict(list)
        self.sent = self.before = self.refused = 0

    def take(self, lines: Sequence[Repaired]) -> None:
        """Judge some lines and send what may go."""
        wrong: list[tuple[int, str]] = []
        mine: dict[str, list[Repaired]] = defaultdict(list)
        for line in lines:
            name = line.letter.partition("/")[0]
            if line.wrong:
                wrong.append((line.number, line.wrong))
            elif name not in STREAMS or line.letter not in self._known(STREAMS[name]):
                wrong.append((line.number, f"there is no dead letter {line.letter!r} in this home"))
            elif line.letter in self._lines:
                wrong.append((line.number, f"this letter is on line {self._lines[line.letter]} already"))
            else:
                self._lines[line.letter] = line.number
                if line.letter in self._marks[name].names:
                    self.before += 1
                else:
                    mine[name].append(line)
        for name, some in mine.items():
            fits, refused = self._gates[name](some)
            wrong += refused
            wrong += [(fit.line.number, fit.late) for fit in fits if fit.late and self._late_to is None]
            self._late[name] += [fit for fit in fits if fit.late and self._late_to is not None]
            events = [(fit.line.letter, fit.place, fit.payload) for fit in fits if not fit.late]
            self.sent += len(events) if self._dry_run else self._sources[name].put(events)
        for number, reason in sorted(wrong):
            typer.secho(f"line {number}: {reason}", fg="red", err=True)
        self.refused += len(wrong)

    def end(self, file: Path) -> None:
        """Write the late ones, say what came of all."""
        would = "would go" if self._dry_run else "went"
        where = "Kafka" if self._settings.source == "kafka" else "the bus"
        typer.echo(f"{self.sent:,} events {would} onto {where}")
        for name, fits in self._late.items():
            if fits and self._late_to is not None:
                self._to_file(STREAMS[name], fits, self._late_to)
        if self.before:
            typer.echo(f"{self.before:,} had gone before")
        if self.refused:
            typer.echo(f"{self.refused:,} were refused: repair these lines and send {file} again")

    def _to_file(self, stream: EventStream, fits: list[Fit], out: Path) -> None:
        if len([name for name, some in self._late.items() if some]) > 1:
            raise DataError(
                "late events of several streams cannot share a file",
                where=out,
                todo="export and send one stream at a time (--stream)",
            )
        typer.echo(f"{len(fits):,} late events {'would go' if self._dry_run else 'went'} to {out}")
        if self._dry_run:
            return
        with _new(out) as file:
            for fit in sorted(fits, key=lambda fit: fit.event_us):
                file.write(json.dumps(json.loads(fit.line.payload), ensure_ascii=False).encode() + b"\n")
        self._marks[stream.name].file({fit.line.letter: str(out) for fit in fits})
        typer.echo(
            f"Stop the flow of {stream.name}, run: python -m flows.run {stream.name} {out}, and start it again"
        )

    def _known(self, stream: EventStream) -> set[str]:
        if stream.name not in self._letters:
            marks = Marks(stream, self._settings)
            source = (Topic if self._settings.source == "kafka" else Bus)(stream, self._settings, marks)
            source.recover()
            self._marks[stream.name], self._sources[stream.name] = marks, source
            self._gates[stream.name] = Gate(stream, self._settings)
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
    """A file that did not exist, for its owner alone, whole or not there at all."""
    if path.exists():
        raise DataError("this file exists already", where=path, todo="name another one")
    with replaced(path, mode=0o600) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error
