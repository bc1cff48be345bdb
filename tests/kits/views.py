"""A small set of views for tests: two entities, three views, quick to compile."""

from __future__ import annotations

from feature_repo.stores.applied_views import AppliedViews, write_views
from feature_repo.windows.spec import Aggregate, ViewSpec
from flows.settings import FlowSettings

HOUR_US = 3_600_000_000

VIEWS = AppliedViews(
    "millstream",
    {
        "payments": (
            ViewSpec(
                "account_recent",
                ("account_id",),
                0,
                64,
                600_000_000,
                (
                    Aggregate("account_amount_sum_1h", "sum", "amount", HOUR_US),
                    Aggregate("account_payees_unique_1h", "count_distinct", "merchant_id", HOUR_US),
                ),
            ),
            ViewSpec(
                "account_daily",
                ("account_id",),
                HOUR_US,
                1024,
                600_000_000,
                (Aggregate("account_amount_max_1d", "max", "amount", 24 * HOUR_US),),
            ),
            ViewSpec(
                "merchant_recent",
                ("merchant_id",),
                0,
                64,
                600_000_000,
                (Aggregate("merchant_payment_count_1h", "count", "event_id", HOUR_US),),
            ),
        )
    },
)


def apply_views(settings: FlowSettings, views: AppliedViews = VIEWS) -> None:
    """Write `views` as the applied views of a home."""
    write_views(settings.home / "views.json", views)
