"""Everything an operator can set about the scorer, as one frozen object per process (`MILLSTREAM_...` variables).

Made once, in `serving.bootstrap`, and passed on from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from feature_repo.deprecated import renamed
from feature_repo.errors import SettingsError
from feature_repo.settings import RepoSettings


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
        description="How often to look for a new champion; 0 loads one at start only",
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
        description="Share of a deadline kept back from the store, to finish, score and answer",
    )
    max_future_skew_seconds: float = Field(
        default=300.0,
        ge=0,
        validation_alias=renamed("MILLSTREAM_MAX_FUTURE_SKEW_SECONDS", "MILLSTREAM_AHEAD_SECONDS"),
        description="A payment further than this ahead of the scorer's clock is refused (422), as the flow refuses it",
    )
    most_in_flight: int = Field(
        default=256,
        ge=1,
        le=4096,
        description="Requests to score that may be inside at once; further ones get 503 with Retry-After, and so do fewer while the "
        "event loop cannot keep up with the deadline",
    )
    threads: int = Field(default=1, ge=1, le=64, description="Threads of the model runtime per call")
    reasons: int = Field(
        default=5, ge=0, le=50, description="Most reasons given for a review or a decline; 0 explains nothing"
    )
    fallback: Literal["rules", "model", "auto"] = Field(
        default="auto",
        description="Who decides without features: `rules` (the limits below), the `model` on the payment alone that is trained beside "
        "the champion, or `auto`: that model where the champion has one. `model` is not ready without one",
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
        description="So long a scored payment counts for the next ones of its account and payee although the flow has not folded it; "
        "0 keeps no such payments",
    )
    freshness_limit_seconds: float = Field(
        default=30.0,
        gt=0,
        description="`/readyz` fails when payments the bus accepted longer ago than this are not in the online store",
    )
    bus_partitions: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Number of `millstream:payments:{p}` streams `/readyz` looks at; the same variable as the flow's",
    )
    score_log: bool = Field(
        default=True, description="Append every answer with its feature vector to `<home>/scores/*.jsonl`"
    )
    score_log_flush_ms: float = Field(
        default=500.0, gt=0, le=60_000, description="How often buffered answers are written"
    )
    score_log_buffer: int = Field(
        default=20_000,
        ge=1,
        description="Most answers waiting to be written; further ones are dropped and counted",
    )
    score_topic: str = Field(
        default="",
        description="Produce every answer, without its vector, to this topic of Kafka; empty: to none",
    )
    alert_topic: str = Field(
        default="",
        description="Produce answers that are no approval to this topic of Kafka; empty: to none",
    )
    max_body_bytes: int = Field(
        default=65_536, ge=1024, description="Largest body of `/score`; a larger one is refused with 413"
    )
    max_batch_bytes: int = Field(
        default=2_097_152,
        ge=1024,
        description="Largest body of `/score/batch`; a larger one is refused with 413",
    )
    auth: Literal["auto", "keys", "off", "open"] = Field(
        default="auto",
        description="Who is answered: keys asks for an API key, off answers this machine only, open answers everybody; "
        "auto is keys if there is a file of keys, else off",
    )
    api_keys: Path | None = Field(
        default=None,
        description="File of API keys (`python -m serving.api_keys_cli`), followed while the scorer runs; `<home>/api_keys.json` if not set",
    )
    key_rate: float = Field(
        default=1000.0,
        ge=0,
        description="Payments a second one API key may ask for, in each process; more get 429. 0 is no limit",
    )
    env: Literal["development", "production"] = Field(
        default="development", description="production: no `/docs` and no `/openapi.json`"
    )
    admin_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="`python -m serving` answers `/metrics`, `/model` and the docs at this port, and at no other; "
        "0: where everything is",
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
        description="Uvicorn's line per request, which costs as much as the features; `/metrics` counts without it",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description="Form of the process's own log lines; auto is text on a terminal, else JSON",
    )

    @model_validator(mode="after")
    def _leave_time_for_the_store(self) -> ScorerSettings:
        if self.reserve_ms >= min(self.deadline_ms, self.batch_deadline_ms):
            raise SettingsError(
                f"nothing is left for the store: a reserve of {self.reserve_ms:g} ms, a deadline of "
                f"{min(self.deadline_ms, self.batch_deadline_ms):g} ms",
                where="MILLSTREAM_RESERVE_MS",
                todo="lower it, or raise the deadline",
            )
        return self

    @property
    def api_keys_file(self) -> Path:
        """Where the API keys are."""
        return self.api_keys or self.home / "api_keys.json"

    def most_bytes(self, path: str) -> int:
        """The largest body of a route."""
        return self.max_batch_bytes if path == "/score/batch" else self.max_body_bytes

    @property
    def store_seconds(self) -> float:
        """How long `/score` waits for the online store."""
        return (self.deadline_ms - self.reserve_ms) / 1000

    @property
    def late_seconds(self) -> float:
        """How far the event loop may be behind: a request passes it about three times, and half of its time is left for what is in the way."""
        return self.store_seconds / 6

    @property
    def batch_store_seconds(self) -> float:
        """How long `/score/batch` waits for the online store."""
        return (self.batch_deadline_ms - self.reserve_ms) / 1000
