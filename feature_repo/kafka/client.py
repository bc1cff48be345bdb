"""Create Kafka clients: librdkafka's properties from the settings, and error texts without secrets.

`confluent-kafka` is an extra (`pip install 'millstream[kafka]'`): nothing here imports it before a client is created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from pydantic import SecretStr

from feature_repo.errors import SettingsError
from feature_repo.settings import RepoSettings

Client = TypeVar("Client")

RESERVED: Final = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "metadata.broker.list",
    }
)
"""Properties that a user must not set, since the delivery guarantees depend on them."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "client.id": "millstream",
    "log_level": 0,  # we log errors ourselves, once, and not at every attempt
    "reconnect.backoff.max.ms": 2_000,
}


def client_properties(settings: RepoSettings, **ours: Any) -> dict[str, Any]:
    """Return the properties of one client: ours (with `_` for `.`), then the file's, then the environment's.

    Raises `SettingsError` for a line that is no property, or a property of `RESERVED`.
    """
    given = {**_of_file(settings), **settings.kafka_properties}
    refused = sorted(RESERVED & given.keys())
    if refused:
        raise SettingsError(
            f"{', '.join(refused)} cannot be set",
            where="MILLSTREAM_KAFKA_PROPERTIES or its file",
            todo="leave it out: KAFKA_BOOTSTRAP_SERVERS names the brokers, the rest keeps events from being lost",
        )
    return {
        **DEFAULTS,
        **{name.replace("_", "."): value for name, value in ours.items()},
        **{name: value.get_secret_value() for name, value in given.items()},
        "bootstrap.servers": settings.kafka_bootstrap_servers,
    }


def make_client(make: Callable[[dict[str, Any]], Client], properties: dict[str, Any]) -> Client:
    """Create a client. Raises `SettingsError` for properties that librdkafka refuses, without their values."""
    from confluent_kafka import KafkaException

    try:
        return make(properties)
    except KafkaException as error:
        raise SettingsError(
            mask_values(error.args[0].str(), properties),
            where="properties of the Kafka client",
            todo="see MILLSTREAM_KAFKA_PROPERTIES, MILLSTREAM_KAFKA_PROPERTIES_FILE and docs/kafka.md",
        ) from None


def mask_values(message: str, properties: Mapping[str, Any]) -> str:
    """Return a message of librdkafka with the values of text properties masked, except the addresses.

    >>> mask_values('bad value "hunter2"', {"sasl.password": "hunter2", "bootstrap.servers": "a:1"})
    'bad value "***"'
    """
    values = {
        str(v)
        for n, v in properties.items()
        if isinstance(v, str) and n not in {"bootstrap.servers", "client.id"}
    }
    for value in sorted(values, key=len, reverse=True):
        if len(value) > 3:
            message = message.replace(value, "***")
    return message


def require_package(module: str) -> None:
    """Raise `SettingsError` if a package of the extra is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise SettingsError(
            f"the package {module} is not installed",
            where="MILLSTREAM_SOURCE, MILLSTREAM_FORMAT or MILLSTREAM_SCORE_TOPIC",
            todo="install the extra: pip install 'millstream[kafka]'",
        )


def _of_file(settings: RepoSettings) -> dict[str, SecretStr]:
    path = settings.kafka_properties_file
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the file cannot be read: {type(error).__name__}",
            where=path,
            todo="check MILLSTREAM_KAFKA_PROPERTIES_FILE",
        ) from None
    found = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise SettingsError("this line has no `name=value`", where=f"{path}, line {number}")
        found[name.strip()] = SecretStr(value.strip())
    return found
