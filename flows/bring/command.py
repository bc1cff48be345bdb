"""`python -m flows.bring FILE --mapping NAME`: import a CSV or Parquet file of any stream through the same flows.

Two steps: convert the file to Parquet files with the columns of the stream, and of its labels if the mapping makes
them; then run these through the flows. Rows that cannot become an event are reported here; rows that fail the flows'
checks become dead letters.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from feature_repo.errors import MillstreamError
from flows.bootstrap import run
from flows.bring import Conversion, convert, load
from flows.settings import FlowSettings

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console(stderr=True)


def show(result: Conversion) -> None:
    """Print what came of a file."""
    labels = (
        f", {result.frauds:,} {result.label_stream.name} ({result.labels})" if result.label_stream else ""
    )
    console.print(f"{result.rows:,} rows: {result.kept:,} {result.stream.name} ({result.events}){labels}")
    for notice in result.notices:
        console.print(f"[yellow]note[/yellow] {notice}", highlight=False)
    for reason, count in sorted(result.reasons.items()):
        console.print(f"[red]rejected[/red] {count:,} rows: {reason}")
    for example in result.examples:
        console.print(f"  row {example.row}: {example.column} {example.value!r} {example.reason}")
    if result.reasons:
        console.print(f"  all of them: {result.rejected}")


def run_through_flows(result: Conversion, settings: FlowSettings) -> None:
    """Run the flows over the converted files to their end; running the same files again adds nothing."""
    for stream, path in result.files.items():
        with console.status(f"running {stream} through the flow"):
            run(stream, settings.model_copy(update={"source_files": settings.join_files([path])}))


@app.command()
def main(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    mapping: Annotated[
        str, typer.Option(help="A mapping file, or a shipped one: sparkov, paysim, handbook.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only events before this instant, in UTC.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the converted files. [default: <home>/brought/<file name>]")
    ] = None,
    convert_only: Annotated[bool, typer.Option("--convert-only", help="Stop before the flows.")] = False,
) -> None:
    """Import a file of one stream, and its labels if the mapping makes them, into the log and the online store."""
    settings = FlowSettings()
    folder = out or settings.home / "brought" / file.stem
    try:
        with console.status("converting"):
            result = convert(
                file, load(mapping), folder, limit=limit, until=until.replace(tzinfo=UTC) if until else None
            )
        show(result)
        if not convert_only:
            run_through_flows(result, settings)
    except MillstreamError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(1) from error
