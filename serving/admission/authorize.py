"""Who gets in: by the address asked, by API key, by its scopes, its tenant and its rate. Both ways into the scorer ask here.

Nothing is opened by what goes missing: a key file that vanishes or breaks while the scorer runs leaves the keys read before.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from feature_repo.errors import SettingsError
from serving.admission import api_keys
from serving.admission.api_keys import SCOPES, ApiKey, Keys, Scope
from serving.api.requests import Payment
from serving.settings import ScorerSettings

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
HEALTH: Final = "/healthz"
"""The only route that asks for no key."""
SCOPES_NEEDED: Final[Mapping[str, Scope]] = {"/score": "score", "/score/batch": "score", "/model": "model"}
"""What a route asks of a key; all others: admin."""
ANONYMOUS: Final = ApiKey("", "anyone", "", frozenset(SCOPES), rate=math.inf)
_DOCS: Final = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
_ADMIN_ONLY: Final = _DOCS | {"/model", "/metrics"}
"""What only the admin port answers, if there is one."""
_BOTH_PORTS: Final = frozenset({HEALTH, "/readyz"})


class Refused(Exception):  # noqa: N818  it is an answer, not a failure of ours
    """An answer other than 200: its status, what is counted as the reason, what is said."""

    def __init__(
        self, status: int, reason: str, detail: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.detail, self.headers = status, reason, detail, dict(headers or {})


class Authorizer:
    """The keys in use, and what each has left of its rate. `clock` gives seconds."""

    def __init__(
        self, settings: ScorerSettings, keys: Keys | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.keys = keys
        """None: keys are not asked for."""
        self._path = None if settings.auth in {"loopback", "none"} else settings.api_keys_file
        self._open = settings.auth == "none"
        self._docs = settings.env != "production"
        self._admin_port = settings.admin_port
        self._rate = settings.key_rate or math.inf
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._seen = _file_identity(self._path)

    @classmethod
    def of(cls, settings: ScorerSettings) -> Authorizer:
        """Raises `SettingsError` for a file that is none, or that must be there and is not."""
        keys = None
        if settings.auth in {"auto", "keys"}:
            try:
                keys = api_keys.read(settings.api_keys_file)
            except FileNotFoundError:
                if settings.auth == "keys":
                    raise SettingsError(
                        "there are no API keys",
                        where=settings.api_keys_file,
                        todo="make one: python -m serving.api_keys_cli add --name ... --scopes score",
                    ) from None
        return cls(settings, keys)

    def require_keys_beyond_loopback(self, host: str) -> None:
        """Raises `SettingsError` when the scorer would answer other machines without asking who they are."""
        if self.keys is None and not self._open and not is_loopback(host, names=False):
            raise SettingsError(
                f"the scorer would answer anybody who reaches {host}",
                where="MILLSTREAM_AUTH",
                todo="make a key (python -m serving.api_keys_cli add --name ... --scopes score), listen at 127.0.0.1, "
                "or set MILLSTREAM_AUTH=none if something in front of it asks who calls",
            )

    def admit(self, scope: Mapping[str, Any]) -> ApiKey:
        """The key of a request, by its ASGI scope; raises `Refused`. Its payments are not counted yet."""
        path = route_of(scope)
        host, port = scope.get("server") or ("", 0)
        key = ANONYMOUS
        if path != HEALTH:
            if self.keys is not None:
                key = self._key(scope["headers"])
                needed = SCOPES_NEEDED.get(path, "admin")
                if needed not in key.scopes:
                    raise Refused(
                        403, "scope", f"this key has not the scope {needed}, which this route asks for"
                    )
            elif not self._open and not is_loopback(host):
                raise Refused(
                    403,
                    "address",
                    "without API keys this scorer answers on its own machine only; see MILLSTREAM_AUTH",
                )
        if (
            self._admin_port
            and path not in _BOTH_PORTS
            and (path in _ADMIN_ONLY) != (port == self._admin_port)
        ):
            raise Refused(404, "port", "Not Found")
        if path in _DOCS and not self._docs:
            raise Refused(404, "docs", "Not Found")
        return key

    def take_tokens(self, key: ApiKey, payments: int = 1) -> None:
        """Count payments against the key's rate; raises `Refused` (429) when nothing is left.

        A token bucket that holds a second's worth. A batch larger than what is left is answered, and paid back before the next.
        """
        rate = key.rate or self._rate
        if rate == math.inf:
            return
        most, now = max(rate, 1.0), self._clock()
        level, at = self._left.get(key.id, (most, now))
        level = min(level + (now - at) * rate, most)
        if level < 1.0:
            self._left[key.id] = (level, now)
            wait = math.ceil((1.0 - level) / rate)
            raise Refused(
                429,
                "rate",
                f"this key may ask for {rate:g} payments a second; try again in {wait} s",
                {"retry-after": str(wait)},
            )
        self._left[key.id] = (level - payments, now)

    def check_tenant(self, key: ApiKey, payments: Sequence[Payment]) -> None:
        """Raise `Refused` (403) for a payment that is not the tenant's, before anything is read for any of them."""
        if self.keys is None or not key.accounts:
            return
        for payment in payments:
            column = self.keys.foreign(key, payment.account_id, payment.merchant_id)
            if column is not None:
                raise Refused(403, "tenant", f"this key may not ask about this {column}")

    async def follow(self) -> None:
        """Look for other keys every so often; for ever."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Read the file again if it is another one; what cannot be read changes nothing."""
        mark = _file_identity(self._path)
        if self._path is None or mark is None or mark == self._seen:
            return
        try:
            self.keys, self._seen = api_keys.read(self._path), mark
        except (OSError, SettingsError) as error:
            log.warning("keys.refused", why=str(error), using="those read before")
            self._seen = mark
            return
        log.info("keys.read", keys=len(self.keys.all))

    def _key(self, headers: Sequence[tuple[bytes, bytes]]) -> ApiKey:
        sent = b""
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                sent = value[7:].strip()
                break
            if name == b"x-api-key":
                sent = value.strip()
        key = self.keys.find(sent) if self.keys is not None and sent else None
        if key is None:
            raise Refused(
                401,
                "key",
                "an API key is needed (Authorization: Bearer ...)"
                if not sent
                else "this API key is not known",
                {"www-authenticate": "Bearer"},
            )
        return key


def route_of(scope: Mapping[str, Any]) -> str:
    """The path asked for, without what is mounted before the application."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _file_identity(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None when it is not there."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return found and (found.st_ino, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=64)
def is_loopback(host: str, *, names: bool = True) -> bool:
    """Whether only this machine reaches an address. What is no address (a socket's path, a name) counts as `names` says; localhost does.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("10.1.2.3"), is_loopback("0.0.0.0")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return names
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
