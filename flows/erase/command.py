"""`python -m flows.erase --account A000123`: remove an account, as payer and as payee, from a home and its server.

First a tombstone is written (`flows.privacy.tombstones`), so that no replay, file or backfill brings the account
back. Then its rows are removed from online store, checkpoints, log, dead letters, score log and bus, and the server
rewrites its append-only file. States shared with others (the window states of a merchant it paid) are folded from the
log again when the flows start.

No flow may run meanwhile, and none can start; the scorer may run. If it is interrupted, run it again to finish it:
until then, flows refuse to start. Models are not changed: they hold no ids, only feature values of a few payments.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from feature_repo import privacy
from feature_repo.errors import DefinitionError, MillstreamError, SettingsError
from feature_repo.privacy import PARTY
from feature_repo.redact import redact
from feature_repo.stores.applied_views import AppliedViews, read_views
from flows.erase import files, store
from flows.erase.bus import Bus
from flows.erase.files import Affected, DeadLetterFiles, LogFiles, ScoreFiles
from flows.erase.people import People, Touched
from flows.erase.reports import Reports
from flows.online.sink import connect, no_answer
from flows.privacy import tombstones
from flows.privacy.tombstones import FOR_EVER, Tombstone
from flows.process import logs, recovery
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream, referenced

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)

ORDER: Final = sorted(STREAMS.values(), key=lambda stream: stream.name not in referenced())
"""The streams that others refer to come first: their events are known by then."""
CHECKPOINTS: Final = "checkpoints"
PSEUDONYM_FORM: Final = re.compile(r"[a-z0-9]{1,8}_[a-z2-7]{26}")
OnStep = Callable[[str, int, int], None]
"""Called before each piece of work with the name of the place, the pieces done there, and their total."""


@dataclass
class Found:
    """What is to be erased, per place: files with numbers of rows, entries of the bus, keys of the online store."""

    log: dict[str, list[Affected]] = field(default_factory=dict)
    dead_letters: dict[str, list[Affected]] = field(default_factory=dict)
    scores: list[Affected] = field(default_factory=list)
    reports: list[Affected] = field(default_factory=list)
    bus: dict[str, list[int]] = field(default_factory=dict)
    deleted: list[bytes] = field(default_factory=list)
    anew: list[bytes] = field(default_factory=list)
    newest_us: int = -(2**63)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of rows, letters, lines, entries and keys per place, without zeros."""
        made = {f"log of {name}": sum(f.rows for f in found) for name, found in self.log.items()}
        made |= {
            f"dead letters of {name}": sum(f.rows for f in found) for name, found in self.dead_letters.items()
        }
        made |= {"score log": sum(f.rows for f in self.scores), "reports": len(self.reports)}
        made |= {f"bus, {partition}": len(offsets) for partition, offsets in self.bus.items()}
        made |= {
            "online store, deleted": len(self.deleted),
            "online store, to be folded again": len(self.anew),
        }
        return {place: count for place, count in made.items() if count}


class Erasure:
    """One erasure of some accounts.

    `client` is a redis-py client; events of the accounts up to `now_us` are rejected.
    """

    def __init__(
        self,
        settings: FlowSettings,
        people: People,
        client: Any,
        now_us: int,
        *,
        on_step: OnStep = lambda place, done, of: None,
    ) -> None:
        self._settings, self._people, self._client = settings, people, client
        self._now_us, self._on_step = now_us, on_step
        try:
            self._views = read_views(settings.home / "views.json")
        except DefinitionError:  # no view has been applied, so the online store is empty
            self._views = AppliedViews("", {})
        touched = self._touched = Touched(_key_columns(self._views))
        self._logs = {s.name: LogFiles(s, settings, people, touched) for s in ORDER}
        self._letters = {s.name: DeadLetterFiles(s, settings, people) for s in ORDER}
        self._scores = ScoreFiles(settings, people)
        self._reports = Reports(settings, people)
        self._bus = Bus(client, people, touched)
        self._store = store.OnlineStore(client, self._views, people, touched)

    def survey(self) -> Found:
        """Find what is to be erased; nothing is changed."""
        known = -1
        while known != self._people.known:  # again, if a label named a payment that no other row did
            found, known = Found(), self._people.known
            for stream in ORDER:
                self._survey_stream(stream, found)
                known = self._people.known if stream.name in self._people.events else known
        self._on_step("score log", 0, 1)
        found.scores = list(self._scores.survey())
        found.reports = list(self._reports.survey())
        if self._views.project:
            self._on_step("online store", 0, 1)
            found.deleted, found.anew = self._store.survey()
        found.newest_us = max(self._bus.newest_us, *(one.newest_us for one in self._logs.values()))
        return found

    def run(self, *, forever: bool = False) -> dict[str, int]:
        """Erase; return the numbers removed, per place. After an interruption at any point, it can be run again."""
        files.remove_leftovers(self._settings)
        found = self.survey()
        before = {t.pseudonym: t for t in tombstones.read(self._settings.home)}
        unfinished = any(not t.finished for t in before.values())
        until_us = FOR_EVER if forever else max(self._now_us, found.newest_us)
        stones = [
            before.get(name, Tombstone(name, until_us)).extended(until_us, self._people.of[name])
            for name in sorted(self._people.names)
        ]
        for stone in stones:
            stone.write(self._settings.home)
        counts = found.counts
        if counts or unfinished or files.holds_names(self._settings, self._people):
            self._remove(found, counts)
        for stone in stones:
            replace(stone, finished=True).write(self._settings.home)
        return counts

    def _remove(self, found: Found, counts: dict[str, int]) -> None:
        """Remove what was found; the online store before the log, from which its keys are derived."""
        self._on_step(CHECKPOINTS, 0, 1)
        counts[CHECKPOINTS] = files.remove_checkpoints(self._settings)
        self._on_step("online store", 0, 2)
        self._store.delete(found.deleted)
        self._on_step("online store", 1, 2)
        counts["online store, to be folded again"] = self._store.forget_states(found.anew)
        self._clear_bus(found)
        for stream in ORDER:
            for path in self._each(f"log of {stream.name}", found.log.get(stream.name, [])):
                self._logs[stream.name].erase(path)
            for path in self._each(f"dead letters of {stream.name}", found.dead_letters.get(stream.name, [])):
                self._letters[stream.name].erase(path)
        for path in self._each("reports", found.reports):
            self._reports.erase(path)
        scored = sum(map(self._scores.erase, self._each("score log", list(self._scores.survey()))))
        if scored:  # the scorer may have written more lines since the survey
            counts["score log"] = scored
        self._on_step("append-only file", 0, 1)
        store.rewrite_append_only_file(self._client)

    def _clear_bus(self, found: Found) -> None:
        tombstones.note_removed_from_bus(
            self._settings.home, {p: offsets for p, offsets in found.bus.items() if offsets}
        )
        for done, (partition, offsets) in enumerate(found.bus.items()):
            self._on_step("bus", done, len(found.bus))
            if offsets or (self._bus.was_trimmed(partition) and not self._bus.has_groups(partition)):
                self._bus.remove(partition, offsets)

    def _survey_stream(self, stream: EventStream, found: Found) -> None:
        name = stream.name
        self._on_step(f"log of {name}", 0, 1)
        found.log[name] = list(self._logs[name].survey())
        self._on_step(f"dead letters of {name}", 0, 1)
        found.dead_letters[name] = list(self._letters[name].survey())
        for partition in self._bus.streams(name):
            self._on_step(f"bus, {partition}", 0, 1)
            found.bus[partition] = self._bus.survey(name, partition)

    def _each(self, place: str, affected: Sequence[Affected]) -> Iterator[Path]:
        for done, one in enumerate(affected):
            self._on_step(place, done, len(affected))
            yield one.path


def erase(
    settings: FlowSettings,
    accounts: Iterable[str] = (),
    names: Iterable[str] = (),
    *,
    forever: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    on_step: OnStep = lambda place, done, of: None,
) -> dict[str, int]:
    """Erase accounts by plain id (`accounts`) or pseudonym (`names`), with `resume` also those of interrupted erasures.

    Returns the numbers removed per place. With `forever`, later events of the accounts are rejected too. Raises
    `RecoveryError` while a flow runs, `SettingsError` for a wrong pseudonym key, `OnlineStoreError` if the server
    does not answer.
    """
    pseudonyms = privacy.of_settings(settings)
    privacy.require_same_key(settings.home, pseudonyms, privacy.read_key_note(settings.home))
    plain = frozenset(accounts)
    with recovery.flows_stopped(settings, (stream.name for stream in ORDER)):
        stones = tombstones.read(settings.home)
        wanted = {*names, *(pseudonyms.of(account, PARTY) for account in plain)}
        if resume:
            wanted |= {stone.pseudonym for stone in stones if not stone.finished}
        if not wanted:
            raise SettingsError(
                "no account is given" if not resume else "no erasure was interrupted",
                where="flows.erase",
                todo="give --account or --pseudonym",
            )
        known = {
            name: frozenset[bytes]().union(*(s.events.get(name, ()) for s in stones if s.pseudonym in wanted))
            for name in referenced()
        }
        people = People(wanted, plain, pseudonyms, known)
        client = connect(settings)
        try:
            job = Erasure(settings, people, client, time.time_ns() // 1000, on_step=on_step)
            return job.survey().counts if dry_run else job.run(forever=forever)
        except RedisError as error:
            raise no_answer(error, settings) from error
        finally:
            client.close()


def _key_columns(views: AppliedViews) -> dict[str, set[str]]:
    """Return, per stream, the columns of its log that are keys of its views."""
    columns: dict[str, set[str]] = {}
    for stream in {*views.streams, *views.earlier}:
        for spec in views.kept(stream):
            columns.setdefault(stream, set()).update(spec.join_keys)
    for stream, plain in views.plain.items():
        for one in plain:
            columns.setdefault(stream, set()).update(one.key_columns)
    return columns


@app.command(help=__doc__)
def main(
    account: Annotated[
        list[str] | None,
        typer.Option(help="Plain id, as the producer writes it; can be repeated"),
    ] = None,
    pseudonym: Annotated[
        list[str] | None,
        typer.Option(help="Pseudonym, if the plain id is not known; does not find plain ids in text"),
    ] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be erased; change nothing")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation")] = False,
    forever: Annotated[
        bool, typer.Option("--forever", help="Also reject later events of the account")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish interrupted erasures")] = False,
) -> None:
    """Erase accounts."""
    settings = FlowSettings()
    logs.configure(settings.log_format)
    console = Console(stderr=True)
    accounts = account or []
    for one in accounts:
        if PSEUDONYM_FORM.fullmatch(one):
            raise typer.BadParameter(f"{one!r} looks like a pseudonym; use --pseudonym {one}")
    if not (dry_run or yes):
        typer.confirm(
            f"Erase {', '.join([*accounts, *(pseudonym or [])]) or 'the accounts of interrupted erasures'} from {settings.home} and "
            f"{redact(settings.redis_url)}? This cannot be undone without a backup.",
            abort=True,
        )
    began = time.perf_counter()
    try:
        with _progress(console) as on_step:
            counts = erase(
                settings,
                accounts,
                pseudonym or (),
                forever=forever,
                dry_run=dry_run,
                resume=resume,
                on_step=on_step,
            )
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error
    _print_counts(Console(), counts, time.perf_counter() - began, dry_run=dry_run)


@contextmanager
def _progress(console: Console) -> Iterator[OnStep]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1)

        def on_step(place: str, done: int, of: int) -> None:
            progress.update(task, description=place, completed=done, total=of)

        yield on_step


def _print_counts(console: Console, counts: dict[str, int], seconds: float, *, dry_run: bool) -> None:
    """Print the numbers erased per place."""
    if not counts:
        console.print(
            "Nothing was found" + ("" if dry_run else "; later replays cannot bring the account back")
        )
        return
    table = Table("place", "would be erased" if dry_run else "erased")
    for place, count in counts.items():
        table.add_row(place, f"{count:,}")
    console.print(table)
    if dry_run:
        return
    console.print(f"{seconds:.1f} s. Start the flows again: they fold their states from the log.")
    console.print(
        "Not changed: existing models (they hold feature values, no ids), input files of backfills, generated histories, "
        "backups, and the data of other systems (producers, Kafka)."
    )
