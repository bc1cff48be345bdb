"""Labels: one row per statement about a payment, at the time it becomes known, hours to days after the payment.

Every fraud is reported at some time. Some reports are wrong at first (an honest payment, or the wrong type of fraud);
an analyst corrects them days later, in another row. Analysts also review and clear some honest payments, suspicious
ones first. A fifth of the labels name payer and payee, the others only the payment.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.streams.labels import FRAUD_TYPES, LABELS
from flows.generate.draws import Floats, Ints

LABELERS = ("chargeback", "customer", "analyst")
MAX_DELAY_DAYS = 5.0
_MEDIAN_DELAY_DAYS = 1.2
_WRONG_REPORTS = 0.05
_WRONG_TYPES = 0.08
_REVIEWED = 0.02
_UNSUSPICIOUS = 0.03
_WITH_KEYS = 0.2
_DAY_US = 86_400e6
_CUSTOMER, _ANALYST = 1, 2


def label_payments(
    rng: np.random.Generator, payments: pa.Table, t: Ints, fraud: Ints, suspicious: Floats
) -> pa.Table:
    """Return the labels of payments, sorted by the time they become known. `fraud` is 0 or the type of fraud.

    `suspicious` are weights for honest payments to be reported by mistake or reviewed; with 0 they never are.
    """
    stolen = np.flatnonzero(fraud)
    known = t[stolen] + _delay(rng, len(stolen))
    labeler = rng.choice(3, len(stolen), p=[0.6, 0.25, 0.15])

    mistaken = rng.random(len(stolen)) < _WRONG_TYPES
    first_kind = np.where(
        mistaken, (fraud[stolen] - 1 + rng.integers(1, 3, len(stolen))) % 3, fraud[stolen] - 1
    )

    candidates = np.flatnonzero((fraud == 0) & (suspicious > 0.0))
    wrongs = min(rng.binomial(len(stolen), _WRONG_REPORTS), len(candidates))
    weight = suspicious[candidates]
    honest = rng.choice(candidates, wrongs, replace=False, p=weight / weight.sum()) if wrongs else stolen[:0]
    reported = t[honest] + _delay(rng, wrongs)

    weight = _UNSUSPICIOUS + suspicious[candidates]
    chance = weight * (_REVIEWED * len(candidates) / max(weight.sum(), 1e-9))
    reviewed = np.setdiff1d(candidates[rng.random(len(candidates)) < chance], honest, assume_unique=True)
    cleared = len(reviewed)

    # Five groups of rows: frauds, corrections of their kind, false reports, withdrawals of those, cleared payments.
    row = np.concatenate([stolen, stolen[mistaken], honest, honest, reviewed])
    corrected = known[mistaken] + _delay(rng, int(mistaken.sum()))
    withdrawn = reported + _delay(rng, wrongs)
    at = np.concatenate([known, corrected, reported, withdrawn, t[reviewed] + _delay(rng, cleared)])
    groups = [len(stolen), int(mistaken.sum()), wrongs, wrongs, cleared]
    truth = np.repeat([True, True, True, False, False], groups)
    kind = np.concatenate(
        [
            first_kind,
            fraud[stolen[mistaken]] - 1,
            rng.integers(0, 3, wrongs),
            np.full(wrongs + cleared, -1),
        ]
    )
    who = np.concatenate([labeler, np.repeat([_ANALYST, _CUSTOMER, _ANALYST, _ANALYST], groups[1:])])
    order = np.argsort(at, kind="stable")
    row = row[order]
    keyed = pa.array(row, mask=rng.random(len(row)) >= _WITH_KEYS)
    return label_table(
        payment_id=_of(payments, "event_id", pa.array(row)),
        at=at[order],
        is_fraud=pa.array(truth[order]),
        fraud_type=pc.take(pa.array([*FRAUD_TYPES, None], pa.string()), pa.array(kind[order] % 4)),
        labeler=pc.take(pa.array(LABELERS), pa.array(who[order])),
        account_id=_of(payments, "account_id", keyed),
        merchant_id=_of(payments, "merchant_id", keyed),
    )


def _of(payments: pa.Table, name: str, row: Any) -> Any:
    return pc.take(payments[name].combine_chunks(), row)


def label_table(
    *,
    payment_id: Any,
    at: Ints,
    is_fraud: Any,
    fraud_type: Any,
    labeler: Any,
    account_id: Any = None,
    merchant_id: Any = None,
) -> pa.Table:
    """Columns to a LABEL table; the label's id says which payment and when, keys that are not given are null."""
    given = {
        "label_id": pc.binary_join_element_wise(payment_id, pa.array(at).cast(pa.string()), ":"),
        "event_timestamp": pa.array(at).cast(TIMESTAMP),
        "payment_id": payment_id,
        "is_fraud": is_fraud,
        "fraud_type": fraud_type,
        "labeler": labeler,
        "account_id": account_id,
        "merchant_id": merchant_id,
    }
    columns = {
        name: pa.nulls(len(at), pa.string()) if column is None else column for name, column in given.items()
    }
    return pa.table({field.name: columns[field.name] for field in LABELS.schema}, schema=LABELS.schema)


def _delay(rng: np.random.Generator, n: int) -> Ints:
    """Draw n delays (us): log-normal, median a bit over a day, from an hour to five days."""
    days = np.clip(_MEDIAN_DELAY_DAYS * np.exp(0.7 * rng.standard_normal(n)), 1 / 24, MAX_DELAY_DAYS)
    return (days * _DAY_US).astype(np.int64)
