"""Authorization of requests: by address, API key, scope, tenant and rate.

A key file that is deleted or damaged while the scorer runs changes nothing: the keys read before stay valid.
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
"""The only route that needs no key."""
SCOPES_NEEDED: Final[Mapping[str, Scope]] = {"/score": "score", "/score/batch": "score", "/model": "model"}
"""Scope that a route needs; other routes need `admin`."""
ANONYMOUS: Final = ApiKey("", "anyone", "", frozenset(SCOPES), rate=math.inf)
_DOCS: Final = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
_ADMIN_ONLY: Final = _DOCS | {"/model", "/metrics"}
"""Routes that only the admin port answers, if there is one."""
_BOTH_PORTS: Final = frozenset({HEALTH, "/readyz"})


class Refused(Exception):  # noqa: N818  an answer to the client, not a failure of the scorer
    """A refusal: HTTP status, reason (label of the metric), `detail` of the JSON body, headers."""

    def __init__(
        self, status: int, reason: str, detail: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.detail, self.headers = status, reason, detail, dict(headers or {})


class Authorizer:
    """Holds the API keys and the remaining rate of each. `clock` returns seconds."""

    def __init__(
        self, settings: ScorerSettings, keys: Keys | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.keys = keys
        """None: no keys are needed."""
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
        """Read the keys. Raises `SettingsError` if the file is damaged, or missing although the settings need one."""
        keys = None
        if settings.auth in {"auto", "keys"}:
            try:
                keys = api_keys.read(settings.api_keys_file)
            except FileNotFoundError:
                if settings.auth == "keys":
                    raise SettingsError(
                        "there are no API keys",
                        where=settings.api_keys_file,
                        todo="create one: python -m serving.api_keys_cli add --name ... --scopes score",
                    ) from None
        return cls(settings, keys)

    def require_keys_beyond_loopback(self, host: str) -> None:
        """Raise `SettingsError` if a scorer that listens at `host` would answer other machines without keys."""
        if self.keys is None and not self._open and not is_loopback(host, names=False):
            raise SettingsError(
                f"the scorer would answer anybody who reaches {host}",
                where="MILLSTREAM_AUTH",
                todo="create a key (python -m serving.api_keys_cli add --name ... --scopes score), listen at 127.0.0.1, "
                "or set MILLSTREAM_AUTH=none if a proxy in front of it authenticates clients",
            )

    def admit(self, scope: Mapping[str, Any]) -> ApiKey:
        """Return the key of a request with this ASGI scope; does not count its payments. Raises `Refused`."""
        path = route_of(scope)
        host, port = scope.get("server") or ("", 0)
        key = ANONYMOUS
        if path != HEALTH:
            if self.keys is not None:
                key = self._key(scope["headers"])
                needed = SCOPES_NEEDED.get(path, "admin")
                if needed not in key.scopes:
                    raise Refused(403, "scope", f"this key lacks the scope {needed}, which this route needs")
            elif not self._open and not is_loopback(host):
                raise Refused(
                    403,
                    "address",
                    "without API keys this scorer answers clients on its own machine only; see MILLSTREAM_AUTH",
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
        """Count payments against the key's rate. Raises `Refused` (429) if nothing is left.

        A token bucket that holds one second's worth. A batch larger than what is left is answered; later requests wait
        for the difference.
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
        """Raise `Refused` (403) if a payment is not the tenant's; nothing has been read for any of them."""
        if self.keys is None or not key.accounts:
            return
        for payment in payments:
            column = self.keys.foreign(key, payment.account_id, payment.merchant_id)
            if column is not None:
                raise Refused(403, "tenant", f"this key may not ask about this {column}")

    async def follow(self) -> None:
        """Read the file again when it changes; runs until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Read the file if it was replaced; keep the known keys if it cannot be read."""
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
    """Return the path of a request without `root_path`."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _file_identity(path: Path | None) -> tuple[int, int, int] | None:
    """(inode, mtime in ns, size), which change when a file is replaced; None without a file."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return found and (found.st_ino, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=64)
def is_loopback(host: str, *, names: bool = True) -> bool:
    """Whether only this machine can reach a host.

    Anything that is not an IP address counts as `names`, except localhost.

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
