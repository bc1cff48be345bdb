"""The features of Irori's example, normalised by running statistics. One row per payment, as of the payment.

Mean and standard deviation are features too: of the account (exact) and of the merchant type (whole hours, because a
type is a hot key), over 30 days. So no scaler is fitted and shipped with a model, and training and scoring divide by
the same number. See docs/five-systems.md.
"""

from datetime import timedelta

from feast import Entity, FeatureService, Field, RequestSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, Int64, String

from entities import account
from examples.functions.payment_normalised import payment_normalised as function
from feature_repo.declare.on_demand_view import on_demand_view
from feature_repo.declare.windowed_schema import schema_of
from on_demand.payment_itself import payment_itself
from on_demand.payment_place import payment_place
from sources import payment, payments
from views.account_last_three import account_last_three
from views.account_previous import account_previous
from views.account_profile import account_profile

_MONTH = timedelta(days=30)

category = Entity(
    name="merchant_category",
    join_keys=["merchant_category"],
    value_type=ValueType.STRING,
    description="What the payee sells, as of the payment",
)
merchant_type = RequestSource(
    name="merchant_type",
    schema=[Field(name="merchant_type", dtype=String)],
    # Feast gives a column of a request to keys or to functions, never to both.
    description="The merchant's category once more, for the function",
)


def _scale(prefix: str, column: str) -> list[Aggregation]:
    return [
        Aggregation(name=f"{prefix}_running_{function}", function=function, column=column, time_window=_MONTH)
        for function in ("mean", "std")
    ]


_of_account = [*_scale("account_amount", "amount"), *_scale("account_distance", "home_distance_m")]
_of_category = _scale("category_amount", "amount")

account_scale = StreamFeatureView(
    name="account_scale",
    entities=[account],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_of_account,
    schema=schema_of(_of_account),
    online=False,
    description="Mean and standard deviation of the account's amounts and distances from home",
    tags={"access": "anonymous"},
)
category_scale = StreamFeatureView(
    name="category_scale",
    entities=[category],
    source=payments,
    timestamp_field="event_timestamp",
    aggregations=_of_category,
    schema=schema_of(_of_category),
    enable_tiling=True,
    tiling_hop_size=timedelta(hours=1),
    online=False,
    description="Mean and standard deviation of the amounts paid to merchants of a type",
    tags={"access": "anonymous"},
)


payment_normalised = on_demand_view(
    function,
    sources=[
        payment,
        merchant_type,
        account_profile,
        account_previous,
        account_last_three,
        account_scale,
        category_scale,
    ],
    schema=[
        Field(name="merchant_type_code", dtype=Int64),
        Field(name="amount_in_category", dtype=Float64),
        Field(name="amount_in_account", dtype=Float64),
        Field(name="distance_in_account", dtype=Float64),
        *(Field(name=f"previous_amount_{n}_in_account", dtype=Float64) for n in (1, 2, 3)),
        *(Field(name=f"previous_distance_{n}_in_account", dtype=Float64) for n in (1, 2, 3)),
    ],
    description="Merchant type as a number (0: another), the rest in standard deviations from a running mean",
)


irori = FeatureService(
    name="irori",
    features=[
        payment_itself[["payment_amount"]],
        payment_place[["home_distance_m", "previous_distance_m"]],
        account_previous[["account_amount_last"]],
        account_last_three,
        payment_normalised,
    ],
    description="Merchant type, amount, place, amounts and distances of the payments before, in running standard deviations",
)
