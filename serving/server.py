"""Run uvicorn with the short way for `POST /score` (`serving.http.score_protocol`), TLS and the admin port."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

import uvicorn

from feature_repo.errors import MillstreamError, SettingsError
from serving.admission.authorize import Authorizer
from serving.app import app
from serving.http.score_protocol import protocol
from serving.settings import ScorerSettings

ACCEPTS: Final = 16
"""Connections accepted per turn of the event loop. It accepts one per listening socket and turn; under overload,
with turns of tens of ms, a thousand new clients waited half a minute for their first answer."""


def serve(host: str, port: int, log_level: str) -> None:
    """Serve until interrupted. Exits with 2 and a message if a setting is wrong."""
    try:
        settings = ScorerSettings()
        authorizer = Authorizer.of(settings)
        authorizer.require_keys_beyond_loopback(host)
        config = _config(settings, host, port, log_level)
        configs = [config]
        if settings.admin_port:
            authorizer.require_keys_beyond_loopback(settings.admin_host)
            configs.append(_config(settings, settings.admin_host, settings.admin_port, log_level))
    except MillstreamError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    # One server on two sockets: `Authorizer` knows by the port which routes a connection may ask for.
    sockets = [each.bind_socket() for each in configs]
    sockets += [sockets[0].dup() for _ in range(1, ACCEPTS)]
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets)


def _config(settings: ScorerSettings, host: str, port: int, log_level: str) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        http=protocol(app),
        ws="none",
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # the file is missing, or is not a certificate
        raise SettingsError(
            f"TLS cannot be set up: {error}",
            where=f"MILLSTREAM_TLS_CERT={settings.tls_cert}",
            todo="set it to the PEM file of a certificate, and MILLSTREAM_TLS_KEY to that of its key",
        ) from error
    return config
