"""Avro schemas by id, from a registry that speaks Confluent's protocol, schemas they reference included.

Each schema is fetched once. While the registry is away the flow waits, as it does for every server. An id that the
registry does not know, or a schema that cannot be used, makes the record a dead letter.
"""

from __future__ import annotations

import json
import ssl
import time
from typing import Any, Final

import msgspec
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from feature_repo.errors import SettingsError
from feature_repo.retry import Outage
from flows.settings import FlowSettings

_ANSWER_S: Final = 5.0
_NOT_FOUND: Final = 404
_NO_SCHEMA: Final = (40_403,)
_NO_VERSION: Final = (40_401, 40_402, 40_403)
"""Error codes of the registry: no such subject, version or schema."""
_FORGET_UNKNOWN_S: Final = 60.0
_MAX_UNKNOWN: Final = 10_000


class SchemaRegistry:
    """Parsed schemas by id. Raises `SettingsError` for an address or a password that cannot be used."""

    def __init__(self, settings: FlowSettings) -> None:
        url = settings.schema_registry_url.rstrip("/")
        if not url.startswith(("http://", "https://")) or "@" in url:
            raise SettingsError(
                "the registry needs an http or https address without a password in it",
                where="SCHEMA_REGISTRY_URL",
                todo="set user and password in MILLSTREAM_SCHEMA_REGISTRY_AUTH",
            )
        trusted = ssl.get_default_verify_paths()  # the client's own default is the list of certifi
        options: dict[str, Any] = {"url": url, "timeout": _ANSWER_S, "max.retries": 0}
        if trusted.cafile or trusted.capath:
            options["ssl.ca.location"] = trusted.cafile or trusted.capath
        if settings.schema_registry_auth is not None:
            options["basic.auth.user.info"] = settings.schema_registry_auth.get_secret_value()
            if ":" not in options["basic.auth.user.info"]:
                raise SettingsError(
                    "no `user:password`", where="MILLSTREAM_SCHEMA_REGISTRY_AUTH", todo="put a colon between"
                )
        self._client = SchemaRegistryClient(options)
        self._outage = Outage(
            "registry",
            "the flow waits and tries again; check SCHEMA_REGISTRY_URL and MILLSTREAM_SCHEMA_REGISTRY_AUTH",
            {"url": url},
        )
        self._known: dict[int, Any] = {}
        """Parsed schema by id, or a text why it cannot be used."""
        self._unknown: dict[int, float] = {}
        """Ids that the registry did not know, and until when it is not asked again (monotonic seconds)."""

    def schema(self, schema_id: int) -> Any:
        """Return a schema as fastavro parsed it.

        Raises `msgspec.DecodeError` for an unknown id, or a schema that cannot be used.
        """
        if schema_id not in self._known:
            if time.monotonic() >= self._unknown.get(schema_id, 0.0):
                found = self._outage.wait_out(lambda: self._fetch(schema_id), _Unanswered)
                if found is not None:
                    self._known[schema_id] = found
                else:
                    self._forget_some()
                    self._unknown[schema_id] = time.monotonic() + _FORGET_UNKNOWN_S
            if schema_id not in self._known:
                raise msgspec.DecodeError(f"the registry knows no schema {schema_id}")
        found = self._known[schema_id]
        if isinstance(found, str):
            raise msgspec.DecodeError(found)
        return found

    def _fetch(self, schema_id: int) -> Any:
        """Return a parsed schema, a text that says why it cannot be used, or None if there is none.

        Raises `_Unanswered`.
        """
        from fastavro import parse_schema

        try:
            schema = _answered(_NO_SCHEMA, self._client.get_schema, schema_id)
        except SchemaRegistryError:
            return None
        if schema.schema_type != "AVRO":
            return f"schema {schema_id} is {schema.schema_type}, not Avro"
        try:
            named: dict[str, Any] = {}
            self._parse_references(schema, named, set())
            return parse_schema(json.loads(schema.schema_str), named)
        except _Unanswered:
            raise
        except SchemaRegistryError as error:
            return f"schema {schema_id} references a schema that the registry does not have: {error.error_message}"
        except Exception as error:  # noqa: BLE001  fastavro raises many kinds; none of them may stop a flow
            return f"schema {schema_id} cannot be read: {type(error).__name__}"

    def _parse_references(self, schema: Schema, named: dict[str, Any], seen: set[tuple[str, int]]) -> None:
        """Parse the schemas that one references, and theirs before; their named types go into `named`."""
        from fastavro import parse_schema

        for reference in schema.references or ():
            place = (reference.subject, reference.version)
            if place in seen:
                continue
            seen.add(place)
            referenced = _answered(_NO_VERSION, self._client.get_version, *place, deleted=True).schema
            self._parse_references(referenced, named, seen)
            parse_schema(json.loads(referenced.schema_str), named)

    def _forget_some(self) -> None:
        if len(self._unknown) >= _MAX_UNKNOWN:
            self._unknown.clear()


class _Unanswered(Exception):  # noqa: N818  not an error of the record: the registry is asked again
    """The registry did not answer, or with an error of its own."""


def _answered(unknown: tuple[int, ...], ask: Any, *arguments: Any, **options: Any) -> Any:
    """Call a method of the client.

    Raises `SchemaRegistryError` for an error code of `unknown`, `_Unanswered` for any other error.
    """
    try:
        return ask(*arguments, **options)
    except SchemaRegistryError as error:
        if error.http_status_code == _NOT_FOUND and error.error_code in unknown:
            raise
        raise _Unanswered(f"HTTP {error.http_status_code}") from error
    except Exception as error:
        raise _Unanswered(f"{type(error).__name__}: {error}") from error
