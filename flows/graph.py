"""The picture of a flow for the docs, rendered by Bytewax from the flow itself: `python -m flows.graph docs/flow.mmd --stream NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from bytewax import visualize
from pydantic import SecretStr

from flows.pipeline import build
from flows.settings import FlowSettings
from flows.streams import STREAMS

_to_mermaid: Any = visualize.to_mermaid


def mermaid(stream: str, settings: FlowSettings) -> str:
    """The flow of a stream as a Mermaid flowchart."""
    drawn: str = _to_mermaid(build(STREAMS[stream], settings))
    return drawn.rstrip() + "\n"


def main(
    out: Annotated[Path, typer.Argument(help="File to write, such as docs/flow.mmd")],
    stream: Annotated[str, typer.Option(help=f"One of: {', '.join(STREAMS)}")],
) -> None:
    """Write the graph of a flow."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(mermaid(stream, FlowSettings(pseudonym_key=SecretStr("off"))), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
