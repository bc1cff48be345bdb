"""The features of Feldera's fraud example. One row per payment, exact as of the payment, which counts itself.

A window never contains the payment it is read for; SQL's `RANGE ... CURRENT ROW` does. So one on-demand function adds
the payment: online from the request, offline from the entity row. See docs/five-systems.md.
"""

from feast import FeatureService, Field
from feast.types import Float64

from examples.functions.payment_and_day import payment_and_day as function
from feature_repo.declare.on_demand_view import on_demand_view
from on_demand.payment_place import payment_place
from sources import payment
from views.account_behaviour import account_behaviour
from views.account_profile import account_profile
from views.account_recent import account_recent

payment_and_day = on_demand_view(
    function,
    sources=[payment, account_profile, account_recent, account_behaviour],
    schema=[
        Field(name="account_amount_mean_1d_incl", dtype=Float64),
        Field(name="account_far_count_1d_incl", dtype=Float64),
    ],
    description="The day before the payment and the payment: average amount, payments more than 50 km from home",
)


feldera = FeatureService(
    name="feldera",
    features=[
        account_profile[["home_latitude", "home_longitude"]],
        payment_place[["home_distance_m"]],
        payment_and_day,
    ],
    description="Home as of the payment, distance from it, average and far payments of a day with the payment itself",
)
