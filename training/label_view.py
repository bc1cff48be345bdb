"""What a Feast `LabelView` says about payments: one row per payment, as known at an instant of its own.

The view is read as any plain view is (`get_historical_features`, an as-of join on the payment's id): of the statements not after
the instant the latest holds, and of two statements of the same instant the one accepted later.
"""

from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa

from feature_repo.errors import DefinitionError

if TYPE_CHECKING:
    from feast import FeatureStore

COLUMNS: Final = ("is_fraud", "fraud_type")
"""What a label view must say of a payment: bool, and a string that may be null."""


def read_label_view(
    store: "FeatureStore", name: str, payments: pa.ChunkedArray, known_at: pa.Array
) -> pa.Table:
    """`COLUMNS`, one row per payment id in the order given; null where nobody had said anything by `known_at`.

    Raises `DefinitionError` when the registry has no such label view, or one of other keys or columns.
    """
    from feast.errors import FeastObjectNotFoundException

    where = f"label view {name}"
    try:
        view: Any = store.get_label_view(name)
    except FeastObjectNotFoundException as error:
        there = ", ".join(view.name for view in store.list_label_views()) or "none"
        raise DefinitionError(
            f"there is no label view {name!r} in the registry; there are: {there}",
            todo="declare it in label_views/ and run feast apply, or name another under data.label_view",
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
