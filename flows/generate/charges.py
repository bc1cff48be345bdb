"""Card charges, one row per card payment: entry mode and 3-D Secure result.

Thieves enter card numbers manually and fail the authentication more often, but most of their charges look normal, and
some merchants never use 3-D Secure.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.declare.stream import TIMESTAMP
from feature_repo.streams.charges import CARD_NETWORKS, CHARGES, ENTRY_MODES, THREE_DS_RESULTS
from flows.generate.changelog_versions import Versions
from flows.generate.draws import Bools, Floats, Ints, Subject, uniform
from flows.generate.merchants import Merchants
from flows.generate.plan import Channel, Kind, Plan

_COUNTRIES: Final = ("DE", "AT", "NL", "FR", "PL", "TR", "GB")
_COUNTRY_WEIGHT: Final = np.cumsum([0.88, 0.03, 0.02, 0.02, 0.02, 0.02])
_NETWORK_WEIGHT: Final = np.cumsum([0.46, 0.41, 0.05])
_EARLY_US: Final = (150_000, 400_000)
"""Range of the time from a charge to its payment (us): the card is authorised before the payment is scored."""
_AFTER_US, _DELAY_US = 200_000, 800_000
_AFTER = 0.10
"""Share of charges that happen, and arrive, after their payment."""

# Rows: app, web, pos of the honest, then of thieves; columns: ENTRY_MODES.
_ENTRY: Final = np.array(
    [
        [0.00, 0.58, 0.00, 0.41, 0.01],
        [0.00, 0.00, 0.00, 0.97, 0.03],
        [0.36, 0.60, 0.03, 0.00, 0.01],
        [0.00, 0.40, 0.00, 0.54, 0.06],
        [0.00, 0.00, 0.00, 0.90, 0.10],
        [0.28, 0.53, 0.14, 0.00, 0.05],
    ]
)
# Rows: the honest, then thieves; columns: THREE_DS_RESULTS.
_THREE_DS: Final = np.array([[0.36, 0.46, 0.07, 0.02, 0.09], [0.20, 0.40, 0.12, 0.08, 0.20]])
_ECOMMERCE, _NO_3DS = ENTRY_MODES.index("ecommerce"), THREE_DS_RESULTS.index("none")


def charge_payments(
    rng: np.random.Generator, seed: int, merchants: Merchants, plan: Plan, payment_id: Any
) -> Versions:
    """Return the charges of a settled plan's card payments (PAYMENT by app, web or pos), in order of arrival."""
    which = np.flatnonzero(
        (plan.kind == Kind.PAYMENT) & (plan.channel >= Channel.APP) & (plan.channel <= Channel.POS)
    )
    n = len(which)
    moment = rng.random(n)
    after = moment < _AFTER
    within = np.where(after, moment / _AFTER, (moment - _AFTER) / (1.0 - _AFTER))
    least, most = _EARLY_US
    offset = np.where(after, within * _AFTER_US, -least - within * (most - least))
    t = plan.t[which] + offset.astype(np.int64)
    arrival = t + np.where(after, rng.random(n) * _DELAY_US, 0.0).astype(np.int64)
    order = np.argsort(arrival, kind="stable")
    which, t = which[order], t[order]

    account, thief = plan.account[which], (plan.fraud[which] > 0).astype(np.int64)
    entry = _pick(_ENTRY, 3 * thief + plan.channel[which], rng.random(n))
    asked = _pick(_THREE_DS, thief, rng.random(n))
    never = (entry != _ECOMMERCE) | merchants.skips_3ds[
        np.minimum(plan.payee[which], len(merchants.skips_3ds) - 1)
    ]
    unknown = rng.random(n) < 0.01
    holders = np.arange(merchants.places.accounts)
    network = np.searchsorted(_NETWORK_WEIGHT, uniform(seed, Subject.CARD, holders), side="right")
    country = np.searchsorted(_COUNTRY_WEIGHT, uniform(seed, Subject.CARD, holders, 1), side="right")
    ids = pc.take(payment_id, pa.array(which))
    columns = {
        "event_id": pc.binary_join_element_wise("c", pc.utf8_slice_codeunits(ids, 1), ""),
        "event_timestamp": pa.array(t).cast(TIMESTAMP),
        "payment_id": ids,
        "card_network": _names(CARD_NETWORKS, network[account]),
        "entry_mode": _names(ENTRY_MODES, entry),
        "three_ds_result": _names(THREE_DS_RESULTS, np.where(never, _NO_3DS, asked), unknown),
        "issuer_country": _names(_COUNTRIES, country[account]),
    }
    return Versions(
        pa.table({f.name: columns[f.name] for f in CHARGES.schema}, schema=CHARGES.schema), arrival[order]
    )


def _pick(weights: Floats, row: Ints, draw: Floats) -> Ints:
    """Draw a column for each row number, by the weights of that row."""
    rows, columns = weights.shape
    edges = (np.cumsum(weights, axis=1) + np.arange(rows)[:, None])[:, :-1]
    found = np.searchsorted(edges.ravel(), row + draw, side="right") - row * (columns - 1)
    picked: Ints = np.clip(found, 0, columns - 1)
    return picked


def _names(names: tuple[str, ...], code: Ints, unknown: Bools | None = None) -> Any:
    return pc.take(pa.array(names), pa.array(code, mask=unknown))
