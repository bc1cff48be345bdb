"""List dead letters: `python -m flows.dead_letters`.

It lists the dead letters, with their reasons and, if the key is there, their payloads.
"""

from __future__ import annotations

from typing import Annotated

import typer

from feature_repo.errors import MillstreamError
from flows.redrive import listing
from flows.redrive.letters import Wanted
from flows.settings import FlowSettings
from flows.streams import STREAMS

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    stream: Annotated[str | None, typer.Option(help=f"One of: {', '.join(STREAMS)}; default: all")] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print every dead letter with its payload, decrypted")
    ] = False,
    reason: Annotated[
        str | None, typer.Option(help="Only dead letters of this reason, such as check")
    ] = None,
) -> None:
    """Count dead letters by reason with a few examples, or print them all. Settings are MILLSTREAM_... variables."""
    if stream is not None and stream not in STREAMS:
        raise typer.BadParameter(f"no stream {stream!r}; there are: {', '.join(STREAMS)}")
    settings = FlowSettings()
    wanted = [STREAMS[stream]] if stream else list(STREAMS.values())
    try:
        for one in wanted:
            print_letters = listing.show if show else listing.count
            print_letters(one, settings, Wanted((reason,) if reason else ()))
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
