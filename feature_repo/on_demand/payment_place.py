"""Where the payment is made, held against home and the payment before. One value per payment, exact as of the payment.

The columns the flow derives for the log, by the same functions: here for the payment that is not logged yet.
"""

from feast import Field
from feast.types import Float64

from feature_repo.declare.on_demand_view import on_demand_view
from on_demand.functions.payment_place import payment_place as function
from sources import payment
from views.account_position import account_position
from views.account_profile import account_profile

payment_place = on_demand_view(
    function,
    sources=[payment, account_profile, account_position],
    schema=[
        Field(name="home_distance_m", dtype=Float64),
        Field(name="is_far", dtype=Float64),
        Field(name="local_hour", dtype=Float64),
        Field(name="is_night", dtype=Float64),
        Field(name="previous_distance_m", dtype=Float64),
        Field(name="speed_kmh", dtype=Float64),
    ],
    description="Distance from home and from the last payment, implied speed, hour at home",
)
