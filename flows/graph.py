"""`python -m flows.graph docs/flow.mmd --stream NAME`: draw the steps of a flow as a Mermaid flowchart."""

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
    out: Annotated[Path, typer.Argument(help="The file to write, such as docs/flow.mmd")],
    stream: Annotated[str, typer.Option(help=f"One of: {', '.join(STREAMS)}")],
) -> None:
    """Write the steps of a flow as a Mermaid flowchart."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(mermaid(stream, FlowSettings(pseudonym_key=SecretStr("off"))), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
