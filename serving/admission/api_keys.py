"""API keys of the scorer: scopes, tenant, accounts and rate of each client.

A key is `msk_<id>_<secret>`; the file holds the id and the sha256 of the secret, never the key. The secret is 256
random bits, not a chosen password, so it cannot be guessed or found in a table; a slow salted hash (bcrypt, argon2)
would only add milliseconds to every request. The id names a key in lists and errors and gives no access.

A tenant may ask about payers whose ids begin with one of its prefixes; without prefixes, about all payers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from feature_repo.errors import SettingsError
from feature_repo.files import write_atomically

Scope = Literal["score", "model", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
PREFIX: Final = "msk"
_NO_DIGEST: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class ApiKey:
    """One key as the file holds it, without its secret.

    `accounts` are prefixes of the allowed payers, empty for all. `rate` is in payments per second, None for
    `MILLSTREAM_KEY_RATE`.
    """

    id: str
    name: str
    tenant: str
    scopes: frozenset[Scope]
    accounts: tuple[str, ...] = ()
    rate: float | None = None
    created: str = ""
    sha256: str = field(default=_NO_DIGEST, repr=False)

    def covers(self, account: str) -> bool:
        """Whether the key may ask about this payer."""
        return not self.accounts or account.startswith(self.accounts)


class Keys:
    """The keys of the file when it was read."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.all = tuple(keys)
        self._by_id = {key.id: key for key in self.all}
        self._foreign = {
            key.tenant: tuple(p for other in self.all if other.tenant != key.tenant for p in other.accounts)
            for key in self.all
        }

    def find(self, sent: bytes) -> ApiKey | None:
        """Return the key that a client sent, None if it is unknown; the comparison takes constant time."""
        prefix, _, rest = sent.decode("latin-1").partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._by_id.get(key_id) if prefix == PREFIX else None
        given = hashlib.sha256(secret.encode("latin-1")).hexdigest()
        same = hmac.compare_digest(given, key.sha256 if key else _NO_DIGEST)
        return key if key is not None and same else None

    def foreign(
        self, key: ApiKey, account: str, merchant: str
    ) -> Literal["account_id", "merchant_id"] | None:
        """Return the column that names an account of another tenant.

        That is a payer outside the tenant's prefixes, or a payee that is another tenant's account; None if neither is.
        """
        if not key.accounts:
            return None
        foreign = self._foreign.get(key.tenant)
        if foreign is None or not account.startswith(key.accounts):  # None: the key is not of this file
            return "account_id"
        if merchant.startswith(foreign) and not merchant.startswith(key.accounts):
            return "merchant_id"
        return None


def make(
    name: str,
    tenant: str,
    scopes: Iterable[str],
    accounts: Iterable[str] = (),
    *,
    rate: float | None = None,
    now: datetime,
) -> tuple[ApiKey, str]:
    """Return a new key for the file, and the key that its owner gets, which is not stored.

    Raises `SettingsError` for wrong options.
    """
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    key = _checked(
        {
            "id": secrets.token_hex(6),
            "name": name,
            "tenant": tenant,
            "scopes": sorted(set(scopes)),
            "accounts": list(accounts),
            "rate": rate,
            "created": now.astimezone(UTC).isoformat(timespec="seconds"),
            "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        },
        where="the options",
    )
    return key, f"{PREFIX}_{key.id}_{secret}"


def read(path: Path) -> Keys:
    """Read a file of keys.

    Raises `SettingsError` if it is damaged or world-writable, FileNotFoundError if it does not exist.
    """
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        raise SettingsError("the file of API keys is world-writable", where=path, todo=f"chmod 600 {path}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["keys"]
        keys = [_checked(key, where=path) for key in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"this is not a file of API keys ({type(error).__name__})",
            where=path,
            todo="restore it, or move it away and create new keys with python -m serving.api_keys_cli add",
        ) from error
    _check_together(keys, path)
    return Keys(keys)


def write(path: Path, keys: Iterable[ApiKey]) -> None:
    """Replace the file atomically, with mode 0600.

    Raises `SettingsError` if two tenants share accounts or two keys a name.
    """
    keys = tuple(keys)
    _check_together(keys, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{**asdict(key), "scopes": sorted(key.scopes), "accounts": list(key.accounts)} for key in keys]
    write_atomically(path, json.dumps({"keys": lines}, indent=1) + "\n", mode=0o600)


def _checked(given: Mapping[str, Any], where: object) -> ApiKey:
    unknown = set(given["scopes"]) - set(SCOPES)
    if unknown or not given["scopes"]:
        raise SettingsError(
            f"a key needs scopes of {', '.join(SCOPES)}"
            + (f", not {', '.join(sorted(unknown))}" if unknown else ""),
            where=where,
            todo="use --scopes score, for example",
        )
    for what in ("id", "name", "tenant", "sha256"):
        if not isinstance(given[what], str) or not given[what]:
            raise SettingsError(f"a key has no {what}", where=where, todo="add one")
    accounts = tuple(given.get("accounts", ()))
    if not all(isinstance(prefix, str) and prefix for prefix in accounts):
        raise SettingsError(
            "an empty prefix covers every account",
            where=where,
            todo="leave --accounts out to allow all of them",
        )
    rate = given.get("rate")
    if rate is not None and not 0 < float(rate) < float("inf"):
        raise SettingsError(
            "a rate is a positive number of payments a second", where=where, todo="correct it"
        )
    return ApiKey(
        given["id"],
        given["name"],
        given["tenant"],
        frozenset(given["scopes"]),
        accounts,
        None if rate is None else float(rate),
        given.get("created", ""),
        given["sha256"],
    )


def _check_together(keys: Iterable[ApiKey], where: object) -> None:
    names: set[str] = set()
    owners: dict[str, str] = {}
    for key in keys:
        if key.name in names:
            raise SettingsError(
                f"two keys have the name {key.name!r}",
                where=where,
                todo="choose another --name, or remove one",
            )
        names.add(key.name)
        for prefix in key.accounts:
            for other, tenant in owners.items():
                if tenant != key.tenant and (prefix.startswith(other) or other.startswith(prefix)):
                    raise SettingsError(
                        f"accounts {prefix}... of {key.tenant} overlap with {other}... of {tenant}",
                        where=where,
                        todo="choose prefixes of which none is the beginning of another tenant's",
                    )
            owners[prefix] = key.tenant
