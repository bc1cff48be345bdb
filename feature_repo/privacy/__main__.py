"""`python -m feature_repo.privacy party A000123`: the pseudonym of a value, for whoever holds the key and needs to look it up."""

from __future__ import annotations

import base64
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from feature_repo.errors import MillstreamError
from feature_repo.privacy import KEY_BYTES, PARTY, VARIABLE, of_settings, pseudonym
from feature_repo.settings import PROJECT_ROOT, RepoSettings

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_show_locals=False,
    no_args_is_help=True,
    help="Pseudonyms of accounts, merchants, e-mail addresses and phone numbers, and the key they are made with.",
)

ENV_FILE: Final = PROJECT_ROOT / ".env"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
Values = Annotated[
    list[str], typer.Argument(help="One or several; `-` reads them from standard input, a line each")
]


@app.command()
def party(values: Values) -> None:
    """Accounts and merchants: what stands in `account_id` and `merchant_id`."""
    _tell(values, PARTY)


@app.command()
def email(values: Values) -> None:
    """E-mail addresses, written exactly as their source writes them."""
    _tell(values, "email")


@app.command()
def phone(values: Values) -> None:
    """Phone numbers, written exactly as their source writes them."""
    _tell(values, "phone")


@app.command()
def key() -> None:
    """Say which key is in use; write a random one into .env if there is none. The key itself is never shown."""
    _guarded(_key)


def _key() -> None:
    if RepoSettings().pseudonym_key is None:
        write_key(ENV_FILE)
        typer.echo(
            f"A new key is in {ENV_FILE.relative_to(PROJECT_ROOT)}, for you alone to read. Keep a copy: who loses it cannot "
            "look up an account any more, nor go on with the data written with it.",
            err=True,
        )
    made = of_settings(RepoSettings())
    source = "the environment" if os.environ.get(VARIABLE) else ".env"
    typer.echo(f"key {made.key_id}, from {source}" if made.keyed else f"off, by {source}")


def write_key(path: Path) -> str:
    """Append a random key to a file that only its owner may read; returns the line's value."""
    key_id = "k" + "".join(secrets.choice(_LETTERS) for _ in range(4))
    value = f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        path.chmod(0o600)
        file.write(f"{before}{VARIABLE}={value}\n")
    return value


def _tell(values: list[str], domain: str) -> None:
    given = [line.rstrip("\n") for line in sys.stdin] if values == ["-"] else values

    def tell() -> None:
        for value in given:
            typer.echo(pseudonym(value, domain))

    _guarded(tell)


def _guarded(do: Callable[[], None]) -> None:
    try:
        do()
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
