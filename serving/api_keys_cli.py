"""`python -m serving.api_keys_cli add | list | remove`: the API keys of the scorer. A running scorer follows within seconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from feature_repo.errors import MillstreamError, SettingsError
from serving.admission import api_keys
from serving.admission.api_keys import Keys
from serving.settings import ScorerSettings

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_show_locals=False,
    no_args_is_help=True,
    help="API keys of the scorer.",
)


@app.command()
def add(
    name: Annotated[str, typer.Option(help="What the key is called, such as checkout-eu")],
    tenant: Annotated[str, typer.Option(help="Whose it is")] = "default",
    scopes: Annotated[
        str,
        typer.Option(
            help="score: /score and /score/batch; model: /model; admin: /readyz, /metrics, the docs"
        ),
    ] = "score",
    accounts: Annotated[
        list[str] | None,
        typer.Option(help="Only payments of payers whose id begins so; may be repeated; all if left out"),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Payments a second; MILLSTREAM_KEY_RATE if left out")
    ] = None,
) -> None:
    """Make a key and print it, this once: it is not kept."""

    def run() -> None:
        path = ScorerSettings().api_keys_file
        wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
        key, told = api_keys.make(name, tenant, wanted, accounts or (), rate=rate, now=datetime.now(UTC))
        api_keys.write(path, [*_known().all, key])
        typer.echo(
            f"{key.name} ({key.id}) of {key.tenant} is in {path}; this is the key, kept nowhere:", err=True
        )
        typer.echo(told)

    _guarded(run)


@app.command("list")
def list_keys() -> None:
    """What keys there are; none of them can be read back."""

    def run() -> None:
        table = Table("id", "name", "tenant", "scopes", "accounts", "payments/s", "created")
        for key in _known().all:
            table.add_row(
                key.id,
                key.name,
                key.tenant,
                ", ".join(sorted(key.scopes)),
                ", ".join(f"{prefix}..." for prefix in key.accounts) or "all",
                "default" if key.rate is None else f"{key.rate:g}",
                key.created,
            )
        Console().print(table)

    _guarded(run)


@app.command()
def remove(name: Annotated[str, typer.Option(help="The name, or the id, of the key")]) -> None:
    """Remove a key: within seconds it opens nothing any more."""

    def run() -> None:
        known = _known().all
        left = [key for key in known if name not in {key.name, key.id}]
        if len(left) == len(known):
            raise SettingsError(
                f"no key is called {name!r}", where=ScorerSettings().api_keys_file, todo="list them"
            )
        api_keys.write(ScorerSettings().api_keys_file, left)
        typer.echo(f"removed {name}")

    _guarded(run)


def _known() -> Keys:
    try:
        return api_keys.read(ScorerSettings().api_keys_file)
    except FileNotFoundError:
        return Keys()


def _guarded(run: Callable[[], None]) -> None:
    try:
        run()
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
