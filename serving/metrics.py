"""Catalogue of the scorer's metrics, for `/metrics`, the docs and the dashboards.

>>> CATALOGUE["millstream_scorer_degraded_total"].labels
('reason',)
"""

from __future__ import annotations

from typing import Final

from feature_repo.metrics import Catalogue

CATALOGUE: Final = Catalogue()

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_AGES: Final = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
_SHARES: Final = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


REQUESTS: Final = CATALOGUE.counter(
    "millstream_scorer_requests_total", "Requests answered, by route and HTTP status", "route", "status"
)
REQUEST_SECONDS: Final = CATALOGUE.histogram(
    "millstream_scorer_request_seconds",
    "From the request's headers to its answer, in the process",
    "route",
    buckets=_SECONDS,
)
REFUSED: Final = CATALOGUE.counter(
    "millstream_scorer_refused_total",
    "Refused requests by reason: key (none or unknown), scope, tenant, rate, size, address, port, docs",
    "reason",
)
PAYMENTS: Final = CATALOGUE.counter(
    "millstream_scorer_payments_total", "Payments decided, by decision", "decision"
)
DECIDED_BY: Final = CATALOGUE.counter(
    "millstream_scorer_decided_by_total",
    "Payments decided, by what: model, fallback_model, fallback_rules",
    "by",
)
DEGRADED: Final = CATALOGUE.counter(
    "millstream_scorer_degraded_total",
    "Payments decided by the fallback, by reason: store_timeout, store_unreachable, store_slow, store_error, state_mismatch, "
    "no_model, deadline, internal",
    "reason",
)
SCORES: Final = CATALOGUE.histogram(
    "millstream_scorer_score", "Fraud probabilities of the model", buckets=_SHARES
)
FEATURE_AGE: Final = CATALOGUE.histogram(
    "millstream_scorer_feature_age_seconds",
    "Seconds from the newest known event of a payment's keys to the payment",
    buckets=_AGES,
)
INCOMPLETE: Final = CATALOGUE.counter(
    "millstream_scorer_incomplete_total",
    "Payments older than a view's state can answer exactly",
    "view",
)
CAPPED: Final = CATALOGUE.counter(
    "millstream_scorer_capped_total",
    "Payments for which an exact view used only the newest events of a very active key",
    "view",
)
STORE_SECONDS: Final = CATALOGUE.histogram(
    "millstream_scorer_store_seconds",
    "Round trip to the online store, answered or not",
    "lane",
    buckets=_SECONDS,
)
STORE_CONNECTED: Final = CATALOGUE.gauge(
    "millstream_scorer_store_connected", "1 while a connection to the online store is open", "lane"
)
BREAKER_OPEN: Final = CATALOGUE.gauge(
    "millstream_scorer_breaker_open",
    "1 while the circuit breaker is open: the store is unreachable or too slow, and payments get the fallback at once",
    "lane",
)
BREAKER_OPENED: Final = CATALOGUE.counter(
    "millstream_scorer_breaker_opened_total",
    "Times the circuit breaker opened: the store was slow, or its connection was lost",
    "lane",
    "why",
)
STORE_LOST: Final = CATALOGUE.counter(
    "millstream_scorer_store_lost_total",
    "Connections to the online store that ended or stopped answering",
    "lane",
)
NOT_WRITTEN: Final = CATALOGUE.counter(
    "millstream_scorer_not_written_total",
    "Writes to pending lists that the store refused or that could not be sent",
)
PENDING: Final = CATALOGUE.counter(
    "millstream_scorer_pending_total",
    "Pending payments that counted for a later one: scored, but not yet processed by the flow",
)
FRESH_RATIO: Final = CATALOGUE.gauge(
    "millstream_scorer_fresh_ratio",
    "Share of the payments at the last /readyz, accepted longer ago than the limit, that are readable in the store",
    deprecated_name="millstream_scorer_fresh_share",
)
LOG_WRITTEN: Final = CATALOGUE.counter(
    "millstream_scorer_log_written_total", "Answers written to the score log"
)
LOG_DROPPED: Final = CATALOGUE.counter(
    "millstream_scorer_log_dropped_total",
    "Answers that were not logged, by reason: full (the buffer), unwritable (the file)",
    "reason",
)
TOPIC_SENT: Final = CATALOGUE.counter(
    "millstream_scorer_topic_sent_total", "Records handed to the producer of scores and alerts", "topic"
)
TOPIC_FAILED: Final = CATALOGUE.counter(
    "millstream_scorer_topic_failed_total",
    "Failed deliveries by librdkafka's error name; they are sent again unless the error is permanent",
    "error",
)
TOPIC_DROPPED: Final = CATALOGUE.counter(
    "millstream_scorer_topic_dropped_total",
    "Answers that did not reach a topic, by reason: full (the buffer), refused (by the brokers), stopped (not acknowledged at shutdown)",
    "reason",
)
SHED: Final = CATALOGUE.counter(
    "millstream_scorer_shed_total",
    "Requests refused with 503 and Retry-After because the concurrency limit was reached",
    "why",
)
EVENT_LOOP_LAG: Final = CATALOGUE.gauge(
    "millstream_scorer_event_loop_lag_seconds",
    "How late the event loop ran a timer, at its last measurement",
    deprecated_name="millstream_scorer_loop_behind_seconds",
)
IN_FLIGHT_LIMIT: Final = CATALOGUE.gauge(
    "millstream_scorer_in_flight_limit", "Current concurrency limit of scoring requests"
)
MODEL: Final = CATALOGUE.gauge(
    "millstream_scorer_model_info", "1 for the model in use, 0 for earlier ones", "name", "version"
)
MODEL_STALE: Final = CATALOGUE.gauge(
    "millstream_scorer_model_stale",
    "1 while the model that the alias names cannot be loaded; the earlier model or the fallback decides",
)
MODEL_REFUSED: Final = CATALOGUE.counter(
    "millstream_scorer_model_refused_total",
    "Champions that could not be loaded; the earlier one stays in use",
)
