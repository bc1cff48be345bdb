"""Settings of the scorer: one frozen object per process, read from `MILLSTREAM_...` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from feature_repo.deprecated import renamed, warn_renamed
from feature_repo.errors import SettingsError
from feature_repo.settings import RepoSettings

_OLD_AUTH: Final = {"off": "loopback", "open": "none"}


class ScorerSettings(RepoSettings):
    """Settings of the scorer; folders and addresses come from `RepoSettings`.

    >>> ScorerSettings(deadline_ms=80).store_seconds
    0.07
    """

    model_name: str = Field(
        default="fraud_detection",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder below `<home>/models` whose champion scores",
    )
    model_poll_seconds: float = Field(
        default=5.0,
        ge=0,
        description="Seconds between looks for a new champion; 0 loads one at start only",
    )
    deadline_ms: float = Field(
        default=150.0,
        gt=0,
        le=60_000,
        description="`/score` answers within this time, with features or with the fallback",
    )
    batch_deadline_ms: float = Field(
        default=2000.0,
        gt=0,
        le=600_000,
        description="`/score/batch` answers within this time; payments not reached by then get the fallback",
    )
    reserve_ms: float = Field(
        default=10.0,
        ge=0,
        description="Part of a deadline that the online store may not use: the time to finish features, score and answer",
    )
    max_future_skew_seconds: float = Field(
        default=300.0,
        ge=0,
        validation_alias=renamed("MILLSTREAM_MAX_FUTURE_SKEW_SECONDS", "MILLSTREAM_AHEAD_SECONDS"),
        description="A payment later than the scorer's clock by more than this is refused (422), as the flow refuses it",
    )
    max_in_flight: int = Field(
        default=256,
        ge=1,
        le=4096,
        validation_alias=renamed("MILLSTREAM_MAX_IN_FLIGHT", "MILLSTREAM_MOST_IN_FLIGHT"),
        description="Scoring requests processed at the same time; further ones get 503 with Retry-After. The limit is lower while the "
        "event loop is too late for the deadline",
    )
    threads: int = Field(default=1, ge=1, le=64, description="Threads of the model runtime per call")
    reasons: int = Field(
        default=5,
        ge=0,
        le=50,
        description="Maximum number of reasons for a review or a decline; 0 gives none",
    )
    fallback: Literal["rules", "model", "auto"] = Field(
        default="auto",
        description="What decides without features: `rules` (the limits below), `model` (a model on the payment alone, trained with the champion), or "
        "`auto`: that model if the champion has one, else rules. With `model`, a scorer whose champion has none is not ready",
    )
    fallback_review_amount: float = Field(
        default=1000.0,
        ge=0,
        description="Rules of the fallback: review payments of at least this amount (major units)",
    )
    fallback_review_balance_share: float = Field(
        default=0.9,
        ge=0,
        description="Rules of the fallback: review payments that take at least this share of the payer's balance, if it is known",
    )
    fallback_decline_amount: float | None = Field(
        default=None,
        ge=0,
        description="Rules of the fallback: decline payments of at least this amount; not set, they never decline",
    )
    pending_seconds: float = Field(
        default=900.0,
        ge=0,
        le=86_400,
        description="How long a scored payment counts for later ones of its account and payee if the flow has not processed it; "
        "0 keeps no such payments",
    )
    freshness_limit_seconds: float = Field(
        default=30.0,
        gt=0,
        description="`/readyz` fails if payments that the bus accepted longer ago than this are not in the online store",
    )
    bus_partitions: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Number of `millstream:payments:{p}` streams that `/readyz` checks; the flow reads the same variable",
    )
    score_log: bool = Field(
        default=True, description="Append every answer with its feature vector to `<home>/scores/*.jsonl`"
    )
    score_log_flush_ms: float = Field(
        default=500.0, gt=0, le=60_000, description="Milliseconds between writes of buffered answers"
    )
    score_log_buffer: int = Field(
        default=20_000,
        ge=1,
        description="Maximum number of answers that wait to be written; further ones are dropped and counted",
    )
    score_topic: str = Field(
        default="",
        description="Kafka topic for every answer, without its feature vector; empty: none",
    )
    alert_topic: str = Field(
        default="",
        description="Kafka topic for reviews and declines; empty: none",
    )
    max_body_bytes: int = Field(
        default=65_536, ge=1024, description="Largest body of `/score`; a larger one is refused with 413"
    )
    max_batch_bytes: int = Field(
        default=2_097_152,
        ge=1024,
        description="Largest body of `/score/batch`; a larger one is refused with 413",
    )
    auth: Literal["auto", "keys", "loopback", "none"] = Field(
        default="auto",
        description="Which clients are answered: `keys` those with an API key, `loopback` those on this machine, `none` all; "
        "`auto` is `keys` if there is a file of keys, else `loopback`",
    )
    api_keys: Path | None = Field(
        default=None,
        description="File of API keys (`python -m serving.api_keys_cli`), read again when it changes; `<home>/api_keys.json` if not set",
    )
    key_rate: float = Field(
        default=1000.0,
        ge=0,
        description="Payments per second and API key, in each process; more get 429. 0 is no limit",
    )
    env: Literal["development", "production"] = Field(
        default="development", description="`production` has no `/docs` and no `/openapi.json`"
    )
    admin_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="`python -m serving` answers `/metrics`, `/model` and the docs at this port only; "
        "0: at the port of everything else",
    )
    admin_host: str = Field(default="127.0.0.1", description="Address of the admin port")
    tls_cert: Path | None = Field(
        default=None,
        description="PEM file with the certificate and its chain: `python -m serving` speaks HTTPS",
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file with the certificate's key, if it is not in the same file"
    )
    access_log: bool = Field(
        default=False,
        description="Write Uvicorn's log line per request; it costs as much CPU as the features, and `/metrics` does not need it",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description="Format of log lines; `auto` is text on a terminal, else JSON",
    )

    @field_validator("auth", mode="before")
    @classmethod
    def _rename_old_values(cls, value: object) -> object:
        """Accept the old names `off` and `open` for this release."""
        new = _OLD_AUTH.get(value) if isinstance(value, str) else None
        if new is None:
            return value
        warn_renamed(f"MILLSTREAM_AUTH={value}", f"MILLSTREAM_AUTH={new}")
        return new

    @model_validator(mode="after")
    def _leave_time_for_the_store(self) -> ScorerSettings:
        if self.reserve_ms >= min(self.deadline_ms, self.batch_deadline_ms):
            raise SettingsError(
                f"nothing is left for the store: the reserve is {self.reserve_ms:g} ms, the deadline "
                f"{min(self.deadline_ms, self.batch_deadline_ms):g} ms",
                where="MILLSTREAM_RESERVE_MS",
                todo="lower it, or raise the deadline",
            )
        return self

    @property
    def api_keys_file(self) -> Path:
        """Path of the file of API keys."""
        return self.api_keys or self.home / "api_keys.json"

    def max_bytes(self, path: str) -> int:
        """The largest body of a route, in bytes."""
        return self.max_batch_bytes if path == "/score/batch" else self.max_body_bytes

    @property
    def store_seconds(self) -> float:
        """How long `/score` waits for the online store, in seconds."""
        return (self.deadline_ms - self.reserve_ms) / 1000

    @property
    def max_lag_seconds(self) -> float:
        """Lag of the event loop, in seconds, above which fewer requests are let in.

        A request passes the loop about three times, and half of its time must be left for its own work.
        """
        return self.store_seconds / 6

    @property
    def batch_store_seconds(self) -> float:
        """How long `/score/batch` waits for the online store, in seconds."""
        return (self.batch_deadline_ms - self.reserve_ms) / 1000
