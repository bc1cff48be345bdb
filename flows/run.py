"""Run one flow, with epochs of any length: `python -m flows.run payments --epoch-ms 250`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from feature_repo.errors import MillstreamError
from flows.bootstrap import run
from flows.process import logs
from flows.process.without_pandas import without_pandas
from flows.settings import FlowSettings

without_pandas()
from flows.streams import STREAMS  # noqa: E402  imports pyarrow, which would look for pandas

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, help=__doc__)


@app.command()
def main(
    stream: Annotated[str, typer.Argument(help=f"One of: {', '.join(STREAMS)}")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Read these files to their end instead of the bus")
    ] = None,
    workers: Annotated[int, typer.Option("-w", "--workers", min=1, help="Number of worker threads")] = 1,
    epoch_ms: Annotated[int | None, typer.Option(help="Length of an epoch in milliseconds")] = None,
) -> None:
    """Run one flow. Settings come from MILLSTREAM_... variables; options override them."""
    options: dict[str, Any] = {}
    if epoch_ms is not None:
        options["epoch_ms"] = epoch_ms
    if files:
        options["source_files"] = FlowSettings.join_files(files)
    settings = FlowSettings(**options)
    logs.configure(settings.log_format)
    if stream not in STREAMS:
        raise typer.BadParameter(f"no stream {stream!r}; there are: {', '.join(STREAMS)}")
    try:
        run(stream, settings, workers, restarts=True)
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
