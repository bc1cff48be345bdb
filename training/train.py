"""`python -m training.train --service fraud_detection_v1`: train one model from the event log.

The clock, the environment and the registry are read here, once per run.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from feature_repo.errors import DefinitionError, MillstreamError
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from training.settings import DEFAULT_CONFIG, TrainingConfig, utc

if TYPE_CHECKING:
    from training.pipeline import TrainingResult

DEFAULT_REPO = PROJECT_ROOT / "feature_repo"
DEFAULT_SERVICE = "fraud_detection_v1"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


def train(
    service: str = DEFAULT_SERVICE,
    *,
    config: TrainingConfig | None = None,
    repo: Path = DEFAULT_REPO,
    home: Path | None = None,
    now: datetime | None = None,
    promote: bool = True,
    stop_on_failure: bool = True,
    console: Console | None = None,
) -> "TrainingResult":
    """Train a model on a feature service of a Feast repository and return its result.

    `home` is the folder of log and models (default: MILLSTREAM_HOME), `now` stamps the version. Without
    `stop_on_failure`, failed expectations do not stop the run. Raises `MillstreamError`.
    """
    if home is not None:
        os.environ["MILLSTREAM_HOME"] = str(home.resolve())  # Feast's stores of this process read it too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads must not spin on a shared machine
    steps_console = console or Console(quiet=True)

    from training.progress import Steps  # from here on imports take seconds, and --help must not

    wanted = config or TrainingConfig.load()
    steps = Steps(steps_console)
    with steps.step("import", "Opening Feast") as step:
        from training.feature_matrix import FeastSource
        from training.pipeline import run

        source = FeastSource(_open(repo), service, wanted.data.label_view)
        step.found = f"{service}: {len(source.features)} features"
    return run(
        source,
        wanted,
        RepoSettings(),
        now=now or datetime.now(UTC),
        steps=steps,
        stop_on_failure=stop_on_failure,
        promote=promote,
    )


def _open(repo: Path) -> Any:
    if not (repo / "feature_store.yaml").is_file():
        raise DefinitionError("no feature_store.yaml", where=repo, todo="name a Feast repository with --repo")
    import warnings

    from feature_repo.stores.open_store import open_store

    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"feast\.")  # "alpha", on every view
    return open_store(RepoSettings(), repo)  # the registry of this home


@app.command()
def main(
    service: Annotated[str, typer.Option(help="Feature service to train on")] = DEFAULT_SERVICE,
    repo: Annotated[Path, typer.Option(help="Feast repository, which has been applied")] = DEFAULT_REPO,
    config: Annotated[Path, typer.Option(help="Training configuration (YAML)")] = DEFAULT_CONFIG,
    home: Annotated[
        Path | None, typer.Option(help="Folder of log and models [default: MILLSTREAM_HOME]")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="First event time, such as 2026-10-01")] = None,
    until: Annotated[str | None, typer.Option(help="End of event time, exclusive")] = None,
    cutoff: Annotated[
        str | None,
        typer.Option(help="Labels that became known after this time are not used, such as 2026-10-20T12:00"),
    ] = None,
    valid_days: Annotated[
        float | None, typer.Option(help="Validation days, on which thresholds are chosen")
    ] = None,
    test_days: Annotated[float | None, typer.Option(help="Test days: the last ones, held out")] = None,
    compare_service: Annotated[
        list[str] | None,
        typer.Option(help="Smaller service, to measure what the other features add. Can be repeated"),
    ] = None,
    label_delay_days: Annotated[
        float | None, typer.Option(help="Days after which most fraud has been reported")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Number of threads of XGBoost")] = None,
    promote: Annotated[bool, typer.Option(help="Make the model the champion")] = True,
    gate: Annotated[bool, typer.Option(help="Stop if the validation of the data fails")] = True,
) -> None:
    """Train a fraud model from the event log: training set, validation, model, thresholds, report, artefact."""
    console = Console()
    try:
        wanted = TrainingConfig.load(config).replace(
            **{
                "data.since": utc(since) if since else None,
                "data.until": utc(until) if until else None,
                "data.cutoff": utc(cutoff) if cutoff else None,
                "data.label_delay_days": label_delay_days,
                "compare_services": tuple(compare_service) if compare_service else None,
                "split.valid_days": valid_days,
                "split.test_days": test_days,
                "model.threads": threads,
            }
        )
        result = train(
            service,
            config=wanted,
            repo=repo,
            home=home,
            promote=promote,
            stop_on_failure=gate,
            console=console,
        )
    except MillstreamError as error:
        Console(stderr=True).print(
            f"[red]✗[/] {type(error).__name__}: ", error, sep="", markup=True, highlight=False
        )
        raise typer.Exit(1) from None
    console.print(
        f"\nReport     {result.report}\nData Docs  {result.data_docs}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    app()
