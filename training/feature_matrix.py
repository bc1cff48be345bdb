"""The feature matrix: one row per payment as of its event time, one column per feature, float32, null = NaN.

XGBoost and the ONNX runtime compute in float32, so the model is trained on exactly the values it will score. A
service with a label view is refused, because the model would learn from the label itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import DataError, DefinitionError, SchemaError
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.spec import is_windowed, view_spec
from training.label_view import read_label_view
from training.labels import LabelSource

if TYPE_CHECKING:
    from feast import FeatureStore

NUMERIC: Final = frozenset({"INT32", "INT64", "FLOAT", "DOUBLE", "BOOL"})
"""Feast value types that a model can use."""

ZERO_WHEN_EMPTY: Final = frozenset({"count", "count_distinct", "sum"})
"""Aggregations that are 0, not null, over an empty window."""

NON_NEGATIVE: Final = frozenset(
    {"count", "count_distinct", "count_since", "std", "var", "seconds_since_last", "mean_hop_count"}
)
"""Aggregations that cannot be negative, whatever they aggregate."""

NON_NEGATIVE_COLUMNS: Final = frozenset({"amount"})
"""Columns of which no aggregation can be negative."""

LABEL_VIEW: Final = "fraud_label"
PAYMENT_KEY: Final = "payment_id"
"""Name of the payment's event_id where the payment is the entity, as for its charge."""

JOINED_COLUMNS: Final = frozenset(column.name for column in (*PAYMENTS.joined, *PAYMENTS.derived))
"""Columns that the flow adds to a payment; null if there was nothing to join."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Feature:
    """A column of the model: name, Feast value type (such as INT64), and bounds that follow from its definition."""

    name: str
    kind: str
    view: str = ""
    never_null: bool = False
    at_least: float | None = None
    joined: bool = False
    """Computed from a plain view, so null for an unknown customer or merchant."""
    of_request: bool = False
    """Computed from the payment alone, so available even if the online store cannot be read."""


class FeatureSource(LabelSource, Protocol):
    """The source of features and labels of a training run, and of the scorer's plan to read the same features."""

    service: str
    features: Sequence[Feature]
    schema_hash: str
    """sha256 of all definitions that affect the values; the scorer checks that model and plan have the same."""
    joined_columns: Sequence[str]
    """Columns of the payments log, beyond those of a payment, that features are computed from."""

    def fetch(self, payments: pa.Table) -> pa.Table:
        """Return columns event_id and all features, one row per payment, in any order."""
        ...

    def columns_of(self, service: str) -> Sequence[str]:
        """Return the names of the features of another service of the same repository."""
        ...

    def save_plan(self, path: Path) -> None:
        """Write the compiled reading plan for the scorer."""
        ...


class FeastSource:
    """A feature service of a Feast repository, read through the store of its feature_store.yaml."""

    def __init__(self, store: "FeatureStore", service: str, label_view: str = LABEL_VIEW) -> None:
        """Read the features of the service from the registry.

        Raises `DefinitionError` for labels and non-numeric features.
        """
        from feature_repo.stores.reader.plan import compile_plan

        self._plan = compile_plan(store, service)
        self._store = store
        self._service: Any = store.get_feature_service(service)
        self._label_view = label_view
        self.service = service
        self.schema_hash = self._plan.schema_hash
        views = [_view(store, projection) for projection in self._service.feature_view_projections]
        where = f"feature service {service}"
        check_views(views, where=where)
        alone = {*self._plan.of_request}
        self.features: Sequence[Feature] = tuple(
            replace(feature, of_request=feature.name in alone)
            for view, projection in zip(views, self._service.feature_view_projections, strict=True)
            for feature in _described(store, view, projection)
        )
        check_features(self.features, where=where)
        if tuple(feature.name for feature in self.features) != self._plan.feature_names:
            raise DefinitionError(
                "the reading plan has other columns than the service",
                where=where,
                todo="run feast apply again",
            )
        self.joined_columns: Sequence[str] = sorted(
            {column for view in views for column in _inputs(store, view)} & JOINED_COLUMNS
        )

    def fetch(self, payments: pa.Table) -> pa.Table:
        """Return the point-in-time join of every view, and the on-demand features computed from it."""
        asked = payments.append_column(PAYMENT_KEY, payments["event_id"]).to_pandas()
        job = self._store.get_historical_features(entity_df=asked, features=self._service)
        return cast("pa.Table", job.to_arrow()).select(["event_id", *(f.name for f in self.features)])

    def labels(self, payments: pa.ChunkedArray, known_at: pa.Array) -> pa.Table:
        """Return the as-of join of the label view."""
        return read_label_view(self._store, self._label_view, payments, known_at)

    def columns_of(self, service: str) -> Sequence[str]:
        """Return the features of a service. Raises `DefinitionError` if the registry does not have it."""
        from feast.errors import FeatureServiceNotFoundException

        try:
            found: Any = self._store.get_feature_service(service)
        except FeatureServiceNotFoundException as error:
            there = ", ".join(s.name for s in self._store.list_feature_services())
            raise DefinitionError(
                f"there is no feature service {service!r} to compare with; there are: {there}",
                where="compare_services",
                todo="name one of these, or declare it in services.py and run feast apply",
            ) from error
        return [f.name for projection in found.feature_view_projections for f in projection.features]

    def save_plan(self, path: Path) -> None:
        """Write the reading plan.

        Raises `DefinitionError` if the definitions were changed by a `feast apply` meanwhile.
        """
        from feature_repo.stores.reader.plan import compile_plan

        store: Any = self._store
        store.refresh_registry()
        if compile_plan(store, self.service).schema_hash != self.schema_hash:
            raise DefinitionError(
                "the definitions changed while the model was trained; the training set has the earlier ones",
                where=f"feature service {self.service}",
                todo="train again",
            )
        self._plan.save(path)


def _view(store: "FeatureStore", projection: Any) -> Any:
    return store.registry.get_any_feature_view(projection.name, store.project)


def _sources(store: "FeatureStore", view: Any) -> list[tuple[Any, Any]]:
    """Return the (view, projection) pairs that an on-demand view reads; empty for other views."""
    projections = getattr(view, "source_feature_view_projections", {}).values()
    return [(_view(store, projection), projection) for projection in projections]


def _plain(view: Any) -> bool:
    return not is_windowed(view) and not hasattr(view, "source_feature_view_projections")


def _inputs(store: "FeatureStore", view: Any) -> set[str]:
    """Return the columns that the features of a view are computed from."""
    if is_windowed(view):
        from feature_repo.stores.online.feast_store import stream_of

        of_payments = stream_of(view) == PAYMENTS.name
        return {a.column for a in view_spec(cast("Any", view)).aggregates} if of_payments else set()
    if _plain(view):
        return {field.name for field in view.features}
    read = _sources(store, view)
    return {field.name for source, projection in read if _plain(source) for field in projection.features}


def _described(store: "FeatureStore", view: Any, projection: Any) -> list[Feature]:
    """Return the features of one view; null and negative values follow from the aggregation."""
    aggregates = {a.name: a for a in view_spec(cast("Any", view)).aggregates} if is_windowed(view) else {}
    joined = _plain(view) or any(_plain(source) for source, _ in _sources(store, view))
    keyed = (
        set(view.join_keys) <= set(PAYMENTS.required) if aggregates else False
    )  # without a key there is nothing to count
    described = []
    for field in projection.features:
        aggregate = aggregates.get(field.name)
        positive = aggregate is not None and (
            aggregate.function in NON_NEGATIVE or aggregate.column in NON_NEGATIVE_COLUMNS
        )
        described.append(
            Feature(
                name=field.name,
                kind=field.dtype.to_value_type().name,
                view=projection.name,
                never_null=keyed and aggregate is not None and aggregate.function in ZERO_WHEN_EMPTY,
                at_least=0.0 if positive else None,
                joined=joined,
            )
        )
    return described


def check_views(views: Sequence[Any], *, where: str) -> None:
    """Raise `DefinitionError` if the service has a label view.

    No scorer has the label, and the model must not learn from it.
    """
    for view in views:
        if hasattr(view, "labeler_field"):  # a LabelView, without importing Feast
            raise DefinitionError(
                f"label view {view.name} is in the service: the model would learn from the label itself",
                where=where,
                todo="leave it out; features from labels are windows over the labels stream",
            )


def check_features(features: Sequence[Feature], *, where: str) -> None:
    """Raise `DefinitionError` unless all features are numbers with unique names."""
    for feature in features:
        if feature.kind not in NUMERIC:
            raise DefinitionError(
                f"feature {feature.name} is {feature.kind}, but a model needs numbers",
                where=f"{where}, view {feature.view}" if feature.view else where,
                todo=f"leave it out of the service (name the view's other columns: view[['...']]), or make numbers "
                f"of it in an on-demand view, such as {feature.name}_is_... = 1.0 or 0.0 for each of its values",
            )
    names = [feature.name for feature in features]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DefinitionError(
            f"duplicate features: {', '.join(twice)}",
            where=where,
            todo="give each feature a name of its own",
        )
    if not names:
        raise DefinitionError("no features", where=where, todo="add a view to the service")


def fetch_features(source: FeatureSource, payments: pa.Table) -> pa.Table:
    """Return the features of the payments, in their order.

    Raises `DataError` if rows are missing or repeated, `SchemaError` if columns are missing.
    """
    fetched = source.fetch(payments)
    if fetched.num_rows != payments.num_rows:
        raise DataError(
            f"{payments.num_rows} payments in, {fetched.num_rows} rows out",
            where=f"get_historical_features of {source.service}",
            todo="look for repeated event_ids in the log, or a store that drops rows",
        )
    names = [feature.name for feature in source.features]
    missing = sorted({"event_id", *names} - set(fetched.column_names))
    if missing:
        raise SchemaError(
            f"columns {', '.join(missing)} are missing in the result",
            where=f"get_historical_features of {source.service}",
            todo="run feast apply again",
        )
    place = pc.index_in(payments["event_id"], value_set=fetched["event_id"].combine_chunks())
    if place.null_count or pc.count_distinct(place).as_py() != payments.num_rows:
        raise DataError(
            "the result has rows of other payments",
            where=f"get_historical_features of {source.service}",
            todo="look for repeated event_ids in the log",
        )
    return fetched.select(names).take(place)


def to_matrix(table: pa.Table) -> Matrix:
    """Convert a table to float32[rows, columns]; null becomes NaN."""
    matrix = np.empty((table.num_rows, table.num_columns), np.float32)
    for place, name in enumerate(table.column_names):
        column = pc.fill_null(table[name].cast(pa.float64()), float("nan"))
        with np.errstate(
            over="ignore"
        ):  # values beyond float32 become infinite, which the validation rejects
            matrix[:, place] = column.to_numpy()
    return matrix
