"""Read labels from a Feast `LabelView`: one row per payment, each as known at its own time.

The view is read like any plain view (`get_historical_features`, an as-of join on the id of the payment): the latest
label that is not after the time is used, and of two labels with the same time the one accepted later.
"""

from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa

from feature_repo.errors import DefinitionError

if TYPE_CHECKING:
    from feast import FeatureStore

COLUMNS: Final = ("is_fraud", "fraud_type")
"""Columns that a label view must have: bool, and a nullable string."""


def read_label_view(
    store: "FeatureStore", name: str, payments: pa.ChunkedArray, known_at: pa.Array
) -> pa.Table:
    """Return `COLUMNS`, one row per payment id, in the order given.

    Null if there was no label by `known_at` (one per id).

    Raises `DefinitionError` if the registry does not have this label view, or if it has other keys or columns.
    """
    from feast.errors import FeastObjectNotFoundException

    where = f"label view {name}"
    try:
        view: Any = store.get_label_view(name)
    except FeastObjectNotFoundException as error:
        there = ", ".join(view.name for view in store.list_label_views()) or "none"
        raise DefinitionError(
            f"there is no label view {name!r} in the registry; there are: {there}",
            todo="declare it in label_views/ and run feast apply, or set data.label_view to another one",
        ) from error
    missing = sorted(set(COLUMNS) - {field.name for field in view.features})
    if missing or len(view.join_keys) != 1:
        raise DefinitionError(
            f"a label is one payment's {' and '.join(COLUMNS)}; "
            + (f"it lacks {', '.join(missing)}" if missing else f"its keys are {', '.join(view.join_keys)}"),
            where=where,
            todo="give it these fields and one entity, the payment",
        )
    (key,) = view.join_keys
    asked = pa.table({key: payments, "event_timestamp": known_at})
    job = store.get_historical_features(
        entity_df=asked.to_pandas(), features=[f"{name}:{column}" for column in COLUMNS]
    )
    return cast("pa.Table", job.to_arrow()).select(list(COLUMNS))
