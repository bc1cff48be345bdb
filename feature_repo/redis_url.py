"""Redis URLs: `redis://`, `rediss://` (TLS) and `unix://`, with user, password and database.

redis-py has a parser too, but importing it costs 0.19 s of CPU, a tenth of the scorer's start.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from feature_repo.errors import SettingsError


@dataclass(frozen=True)
class RedisAddress:
    """Address and credentials of a Redis server; user, password and options are not in its repr.

    >>> RedisAddress.parse("redis://scorer:secret@db.local:6380/2")
    RedisAddress(host='db.local', port=6380, path='', db=2, tls=False)
    """

    host: str
    port: int
    path: str
    db: int
    tls: bool
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Parse a URL. Raises `SettingsError` if it is not a Redis URL."""
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query))
            if parts.scheme not in {"redis", "rediss", "unix"}:
                raise ValueError  # noqa: TRY301  one message for all errors
            unix = parts.scheme == "unix"
            return cls(
                host="" if unix else parts.hostname or "127.0.0.1",
                port=0 if unix else parts.port or 6379,
                path=unquote(parts.path) if unix else "",
                db=int(options.pop("db", "") or (not unix and parts.path.strip("/")) or 0),
                tls=parts.scheme == "rediss",
                user=unquote(parts.username or options.pop("username", "")),
                password=unquote(parts.password or options.pop("password", "")),
                options=tuple(sorted(options.items())),
            )
        except ValueError:  # its text may quote a part of the password
            raise SettingsError(
                "not a Redis URL",
                where="REDIS_URL",
                todo="use the form redis://user:password@host:6379/0; percent-encode @ : / ? # in the password",
            ) from None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}/{self.db}"

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """TLS context, None without TLS. Certificates are verified unless the URL has `ssl_cert_reqs=none`.

        Files are named by `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile`, as in redis-py.
        """
        if not self.tls:
            return None
        options = dict(self.options)
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_cert_reqs", "required").lower() == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif options.get("ssl_check_hostname", "true").lower() in {"false", "0", "no"}:
            context.check_hostname = False
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        return context

    @property
    def handshake(self) -> list[list[bytes]]:
        """The first commands of a connection: AUTH and SELECT as needed, then PING."""
        commands: list[list[bytes]] = []
        if self.password:
            commands.append([b"AUTH", *([self.user.encode()] if self.user else []), self.password.encode()])
        if self.db:
            commands.append([b"SELECT", str(self.db).encode()])
        return [*commands, [b"PING"]]
