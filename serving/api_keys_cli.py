"""`python -m serving.api_keys_cli add | list | remove`: manage the API keys.

A running scorer reads changes within seconds.
"""

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
    name: Annotated[str, typer.Option(help="Name of the key, such as checkout-eu")],
    tenant: Annotated[str, typer.Option(help="Tenant that owns it")] = "default",
    scopes: Annotated[
        str,
        typer.Option(
            help="score: /score and /score/batch; model: /model; admin: /readyz, /metrics, the docs"
        ),
    ] = "score",
    accounts: Annotated[
        list[str] | None,
        typer.Option(help="Allowed prefix of payer ids; may be repeated; all payers if left out"),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Payments per second; MILLSTREAM_KEY_RATE if left out")
    ] = None,
) -> None:
    """Create a key and print it. It is not stored and cannot be printed again."""

    def run() -> None:
        path = ScorerSettings().api_keys_file
        wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
        key, told = api_keys.make(name, tenant, wanted, accounts or (), rate=rate, now=datetime.now(UTC))
        api_keys.write(path, [*_known().all, key])
        typer.echo(
            f"{key.name} ({key.id}) of tenant {key.tenant} was added to {path}; the key, which is not stored:",
            err=True,
        )
        typer.echo(told)

    _guarded(run)


@app.command("list")
def list_keys() -> None:
    """List the keys, without their secrets."""

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
def remove(name: Annotated[str, typer.Option(help="Name or id of the key")]) -> None:
    """Remove a key. It stops working within seconds."""

    def run() -> None:
        known = _known().all
        left = [key for key in known if name not in {key.name, key.id}]
        if len(left) == len(known):
            raise SettingsError(
                f"there is no key {name!r}", where=ScorerSettings().api_keys_file, todo="list the keys"
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
