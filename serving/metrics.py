"""Every metric of the scorer, in one typed catalogue: `/metrics`, the docs and the dashboards read it.

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
    "Requests not let in, by reason: key (none, or not known), scope, tenant, rate, size, address, port, docs",
    "reason",
)
PAYMENTS: Final = CATALOGUE.counter(
    "millstream_scorer_payments_total", "Payments decided, by decision", "decision"
)
DECIDED_BY: Final = CATALOGUE.counter(
    "millstream_scorer_decided_by_total",
    "Payments decided, by whom: model, fallback_model, fallback_rules",
    "by",
)
DEGRADED: Final = CATALOGUE.counter(
    "millstream_scorer_degraded_total",
    "Payments decided by the fallback, by reason: store_timeout, store_unreachable, store_slow, store_error, state_mismatch, "
    "no_model, deadline, internal",
    "reason",
)
SCORES: Final = CATALOGUE.histogram(
    "millstream_scorer_score", "Probabilities of fraud the model gave", buckets=_SHARES
)
FEATURE_AGE: Final = CATALOGUE.histogram(
    "millstream_scorer_feature_age_seconds",
    "From the newest event known of a payment's keys to the payment",
    buckets=_AGES,
)
INCOMPLETE: Final = CATALOGUE.counter(
    "millstream_scorer_incomplete_total",
    "Payments that lay further back than a view's state can answer exactly",
    "view",
)
CAPPED: Final = CATALOGUE.counter(
    "millstream_scorer_capped_total", "Payments whose exact view answered from its newest events only", "view"
)
STORE_SECONDS: Final = CATALOGUE.histogram(
    "millstream_scorer_store_seconds",
    "Round trip to the online store, answered or not",
    "lane",
    buckets=_SECONDS,
)
STORE_CONNECTED: Final = CATALOGUE.gauge(
    "millstream_scorer_store_connected", "1 while a connection to the online store answers", "lane"
)
BREAKER_OPEN: Final = CATALOGUE.gauge(
    "millstream_scorer_breaker_open",
    "1 while the online store is not asked, since it is gone, silent or too slow, and payments get the fallback at once",
    "lane",
)
BREAKER_OPENED: Final = CATALOGUE.counter(
    "millstream_scorer_breaker_opened_total",
    "How often asking the online store was stopped: it was slow, or its connection was lost",
    "lane",
    "why",
)
STORE_LOST: Final = CATALOGUE.counter(
    "millstream_scorer_store_lost_total", "Connections to the online store that ended or fell silent", "lane"
)
UNTOLD: Final = CATALOGUE.counter(
    "millstream_scorer_not_written_total",
    "Writes to pending lists that the online store refused or could not be sent",
)
PENDING: Final = CATALOGUE.counter(
    "millstream_scorer_pending_total",
    "Scored payments the flow had not folded yet that counted for a later one",
)
FRESH: Final = CATALOGUE.gauge(
    "millstream_scorer_fresh_share",
    "Of the payments /readyz last looked up (accepted longer ago than the limit), the share that is readable",
)
LOG_WRITTEN: Final = CATALOGUE.counter(
    "millstream_scorer_log_written_total", "Answers written to the score log"
)
LOG_DROPPED: Final = CATALOGUE.counter(
    "millstream_scorer_log_dropped_total",
    "Answers not logged: the buffer was full, or the file not writable",
    "reason",
)
TOPIC_SENT: Final = CATALOGUE.counter(
    "millstream_scorer_topic_sent_total", "Records handed to the producer of scores and alerts", "topic"
)
TOPIC_FAILED: Final = CATALOGUE.counter(
    "millstream_scorer_topic_failed_total",
    "Deliveries that failed, by librdkafka's name of the error; they are sent again, unless they are refused for good",
    "error",
)
TOPIC_DROPPED: Final = CATALOGUE.counter(
    "millstream_scorer_topic_dropped_total",
    "Answers that did not reach a topic: full (the buffer), refused (by the brokers), stopped (not acknowledged at the end)",
    "reason",
)
SHED: Final = CATALOGUE.counter(
    "millstream_scorer_shed_total",
    "Requests turned away with 503 and Retry-After, since as many were inside as can be answered in time",
    "why",
)
LOOP_BEHIND: Final = CATALOGUE.gauge(
    "millstream_scorer_loop_behind_seconds", "How late the event loop was, last time it was looked at"
)
IN_FLIGHT_LIMIT: Final = CATALOGUE.gauge(
    "millstream_scorer_in_flight_limit", "Requests that may be inside at once, as the event loop keeps up"
)
MODEL: Final = CATALOGUE.gauge(
    "millstream_scorer_model_info", "1 for the model that scores, 0 for those before it", "name", "version"
)
MODEL_STALE: Final = CATALOGUE.gauge(
    "millstream_scorer_model_stale",
    "1 while the model the alias names cannot be used: the one before it goes on, or the fallback decides",
)
MODEL_REFUSED: Final = CATALOGUE.counter(
    "millstream_scorer_model_refused_total", "Champions that could not be loaded; the one before goes on"
)
