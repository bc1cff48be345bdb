"""`python -m training.promote VERSION`: make another model version the champion; the scorer loads it within seconds.

Every file of the version is first checked against its manifest. The hash of the manifest is written beside the
version, so that the scorer detects later changes.
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
    """Promote a version in the folder of a model; return the previous champion, empty if there was none.

    Raises `ArtefactError` for an unknown or damaged version.
    """
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
    version: Annotated[str, typer.Argument(help="Name of a directory in `<home>/models/<model>`")],
    model: Annotated[str, typer.Option(help="Name of the model")] = "fraud_detection",
) -> None:
    """Verify a version of a model and make it the champion."""
    try:
        before = promote(RepoSettings().models / model, version)
    except MillstreamError as error:
        Console(stderr=True).print(
            f"[red]✗[/] {type(error).__name__}: ", error, sep="", markup=True, highlight=False
        )
        raise typer.Exit(1) from None
    Console().print(f"{version} is now the champion" + (f"; before it was {before}" if before else ""))


if __name__ == "__main__":
    app()
