"""Balances: one pass over planned payments in order of time, in whole cents.

If the balance does not cover a payment, the account is topped up instead. So no balance is negative, money sent
between two accounts of this bank arrives, and the balance before a payment is the balance after the previous one.
"""

from typing import Any

import numba as nb
import numpy as np

from feature_repo.kernel_cache import kernel

KEPT, TOPPED_UP, DROPPED = 0, 1, 2
_LEAST_SHARE_CENTS = 1_000
"""Least amount of a payment that takes a share of the balance."""


_INTS, _FLAGS, _REALS = nb.int64[::1], nb.boolean[::1], nb.float64[::1]


# An explicit signature: compiled once, whatever strides or flags arrive later.
@kernel(signature=nb.void(_INTS, _INTS, _INTS, _FLAGS, _REALS, _FLAGS, *[_INTS] * 7))
def settle(
    balance: Any,
    account: Any,
    receiver: Any,
    incoming: Any,
    by_share: Any,
    fraud: Any,
    top_up: Any,
    cents: Any,
    before: Any,
    after: Any,
    receiver_before: Any,
    receiver_after: Any,
    fate: Any,
) -> None:
    """Settle payments: update `balance` (int64[accounts], cents) and fill the arrays from `cents` on.

    `receiver` is the receiving account or -1. If `by_share` > 0, the amount is that share of the balance, else it is
    `cents`. `fate` becomes KEPT, TOPPED_UP (the row became a top-up) or DROPPED (no payment).
    """
    for i in range(len(account)):
        payer = account[i]
        money = balance[payer]
        amount = cents[i]
        fate[i] = KEPT
        if incoming[i]:
            change = amount
        elif by_share[i] > 0.0:
            amount = np.int64(money * by_share[i])
            if amount < _LEAST_SHARE_CENTS:
                fate[i] = DROPPED
                continue
            change = -amount
        elif amount <= money:
            change = -amount
        elif fraud[i]:
            fate[i] = DROPPED
            continue
        else:
            fate[i] = TOPPED_UP
            amount = top_up[i]
            change = amount
        cents[i] = amount
        before[i] = money
        after[i] = money + change
        balance[payer] = money + change
        if receiver[i] >= 0 and fate[i] == KEPT:
            receiver_before[i] = balance[receiver[i]]
            balance[receiver[i]] += amount
            receiver_after[i] = balance[receiver[i]]
