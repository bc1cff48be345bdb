"""Where everything lives: one frozen object per process, made once at its edge.

Environment variables, or lines of the file `.env` in the project root (the environment wins): `MILLSTREAM_HOME`
(default: `var` in the project root) and `REDIS_URL` (or `MILLSTREAM_REDIS_URL`). Without the latter, the address is the
one the embedded server left in `<home>/redis.url`, else the local default port.
"""

from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from feature_repo.deprecated import warn_of_old_settings
from feature_repo.errors import SettingsError

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent
DEFAULT_REDIS_URL: Final = "redis://127.0.0.1:6379/0"


def _redis_url(validated: dict[str, Any]) -> str:
    """Address of the running embedded server, else Redis's usual one."""
    try:
        return (validated["home"] / "redis.url").read_text(encoding="utf-8").strip() or DEFAULT_REDIS_URL
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return DEFAULT_REDIS_URL


class RepoSettings(BaseSettings):
    """Folders and addresses that flows, training and serving share.

    >>> RepoSettings(home="/tmp/m").payments_log.as_posix()
    '/tmp/m/log/payments'
    """

    model_config = SettingsConfigDict(
        env_prefix="MILLSTREAM_",
        env_file=PROJECT_ROOT / ".env",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,  # one of them is a secret
    )

    home: Path = Field(
        default=PROJECT_ROOT / "var", description="Folder of everything that is written at run time"
    )
    redis_url: str = Field(
        default_factory=_redis_url,
        validation_alias=AliasChoices("REDIS_URL", "MILLSTREAM_REDIS_URL"),
        repr=False,  # it may hold a password
        description="Redis-protocol server: bus and online store",
    )
    pseudonym_key: SecretStr | None = Field(
        default=None,
        description="`<key id>:<base64 of at least 32 bytes>`, the key of all pseudonyms (`make key` writes one into `.env`); "
        "`off` for data that is pseudonymous already. Flows and scorer do not start without it",
    )

    source: Literal["bus", "kafka"] = Field(
        default="bus", description="Where live events come from: the bus on the Redis server, or Kafka"
    )
    kafka_bootstrap_servers: str = Field(
        default="127.0.0.1:9092",
        validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "MILLSTREAM_KAFKA_BOOTSTRAP_SERVERS"),
        description="Kafka only: brokers to begin with, `host:port` separated by commas",
    )
    kafka_topics: dict[str, str] = Field(
        default_factory=dict,
        description='Topics by stream as JSON, such as `{"payments": "core.payments.v1"}`; the others are `millstream.<stream>`',
    )
    kafka_properties: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Properties of librdkafka as JSON, such as `security.protocol` and `sasl.password`; they win over the file's",
    )
    kafka_properties_file: Path | None = Field(
        default=None, description="File with properties of librdkafka, one `name=value` a line"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Warn about old names in the environment and in `.env`; the sources are pydantic's own."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                warn_of_old_settings(source.env_vars)
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @field_validator("redis_url")
    @classmethod
    def _has_a_port_that_is_a_number(cls, url: str) -> str:
        """Refuse other ports: later errors would quote the text, which may be part of a password with a slash."""
        try:
            urlsplit(url).port  # noqa: B018  it raises
        except ValueError:
            raise SettingsError(
                "not a Redis URL",
                where="REDIS_URL",
                todo="give one such as redis://user:password@host:6379/0; what is special in a URL (@ : / ? #) is "
                "percent-encoded in a password",
            ) from None
        return url

    def kafka_topic(self, stream: str) -> str:
        """The topic of a stream.

        >>> RepoSettings(kafka_topics={"labels": "fraud.labels"}).kafka_topic("labels")
        'fraud.labels'
        """
        return self.kafka_topics.get(stream, f"millstream.{stream}")

    @property
    def log_dir(self) -> Path:
        """The event logs, one flat directory of Parquet files per stream."""
        return self.home / "log"

    @property
    def payments_log(self) -> Path:
        """Accepted payments."""
        return self.log_dir / "payments"

    @property
    def labels_log(self) -> Path:
        """Accepted labels."""
        return self.log_dir / "labels"

    @property
    def staging(self) -> Path:
        """Log files of epochs not yet durable; outside the logs, whose every file is read."""
        return self.home / "staging"

    @property
    def dead_letters(self) -> Path:
        """What could not be decoded or did not pass a check."""
        return self.home / "dead_letters"

    @property
    def recovery(self) -> Path:
        """Bytewax recovery stores, one folder per flow."""
        return self.home / "recovery"

    @property
    def checkpoints(self) -> Path:
        """Window states the fold starts again from."""
        return self.home / "checkpoints"

    @property
    def models(self) -> Path:
        """Model artefacts."""
        return self.home / "models"

    @property
    def scores(self) -> Path:
        """The scorer's answers, with their feature vectors."""
        return self.home / "scores"

    @property
    def registry(self) -> Path:
        """Feast's file registry."""
        return self.home / "registry.db"
