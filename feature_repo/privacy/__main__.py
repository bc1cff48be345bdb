"""`python -m feature_repo.privacy party A000123`: print the pseudonym of a value, to look an account up."""

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
    help="Print pseudonyms of accounts, merchants, e-mail addresses and phone numbers; create their key.",
)

ENV_FILE: Final = PROJECT_ROOT / ".env"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
Values = Annotated[
    list[str], typer.Argument(help="One value or several; `-` reads them from standard input, one per line")
]


@app.command()
def party(values: Values) -> None:
    """Print pseudonyms of accounts and merchants, as in `account_id` and `merchant_id`."""
    _print_pseudonyms(values, PARTY)


@app.command()
def email(values: Values) -> None:
    """Print pseudonyms of e-mail addresses, spelled exactly as in their source."""
    _print_pseudonyms(values, "email")


@app.command()
def phone(values: Values) -> None:
    """Print pseudonyms of phone numbers, spelled exactly as in their source."""
    _print_pseudonyms(values, "phone")


@app.command()
def key() -> None:
    """Print the id of the key in use; without a key, write a random one into .env. The key itself is never printed."""
    _guarded(_key)


def _key() -> None:
    if RepoSettings().pseudonym_key is None:
        write_key(ENV_FILE)
        typer.echo(
            f"A new key is in {ENV_FILE.relative_to(PROJECT_ROOT)}, which only you can read. Keep a copy: if you lose it, "
            "the data written with it cannot be used or continued.",
            err=True,
        )
    made = of_settings(RepoSettings())
    source = "the environment" if os.environ.get(VARIABLE) else ".env"
    typer.echo(f"key {made.key_id}, from {source}" if made.keyed else f"off, by {source}")


def write_key(path: Path) -> str:
    """Append a random key to a file that only its owner may read; returns the value."""
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


def _print_pseudonyms(values: list[str], domain: str) -> None:
    given = [line.rstrip("\n") for line in sys.stdin] if values == ["-"] else values

    def run() -> None:
        for value in given:
            typer.echo(pseudonym(value, domain))

    _guarded(run)


def _guarded(do: Callable[[], None]) -> None:
    try:
        do()
    except MillstreamError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
