"""`python -m training.promote VERSION`: make an earlier or later model the champion; the scorer follows within seconds.

The version is checked first: every file against its manifest. What the manifest says is written beside the version's name, so that the
scorer notices if it is changed afterwards.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from feature_repo.champion_alias import MANIFEST, read_alias
from feature_repo.errors import ArtefactError, MillstreamError
from feature_repo.settings import RepoSettings
from training import artefact

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def promote(folder: Path, version: str) -> str:
    """Promote one version of a model's folder; returns the version before, empty if there was none."""
    versions = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if version not in versions:
        raise ArtefactError(
            f"there is no version {version!r}; there are: {', '.join(versions) or 'none'}",
            where=folder,
            todo="name one of these, or train one: python -m training.train",
        )
    try:
        before = read_alias(folder).version
    except ArtefactError:
        before = ""
    artefact.promote(folder, version)
    return before


@app.command()
def main(
    version: Annotated[str, typer.Argument(help="Directory below `<home>/models/<model>`")],
    model: Annotated[str, typer.Option(help="Model")] = "fraud_detection",
) -> None:
    """Check a model's version and make it the champion."""
    try:
        before = promote(RepoSettings().models / model, version)
    except MillstreamError as error:
        Console(stderr=True).print(
            f"[red]✗[/] {type(error).__name__}: ", error, sep="", markup=True, highlight=False
        )
        raise typer.Exit(1) from None
    Console().print(f"{version} is champion now" + (f", {before} was before" if before else ""))


if __name__ == "__main__":
    app()
