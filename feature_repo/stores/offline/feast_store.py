"""Feast's offline store over the event log. Named in `feature_store.yaml` as `offline_store.type`.

`get_historical_features` returns one row per entity row, in the given order, as of the row's event time:

* windowed views are computed from the log by the flow's own kernels (`point_in_time`); nothing is pre-computed;
* plain views are joined with DuckDB's `ASOF JOIN` under Feast's rules (`asof_join`): at or before the row's time, not
  older than `ttl`, the latest created of equal times.

With `filter_by_created_timestamp` a row sees only what had been accepted by its own time. A plain view with the tag
`clock: accepted` is always read so, because a changelog's late correction, or a charge that arrived after its payment,
did not exist when the payment was scored. Everything else (materialize, saved datasets, feature logging, monitoring)
is Feast's DuckDB store.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.permissions.security_manager import get_security_manager
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.errors import OfflineStoreError
from feature_repo.files import replaced
from feature_repo.settings import RepoSettings
from feature_repo.stores.event_log import checksums
from feature_repo.stores.event_log.read import log_files
from feature_repo.stores.offline.asof_join import asof_join
from feature_repo.stores.offline.on_demand import HistoricalOnDemand
from feature_repo.stores.offline.point_in_time import Lookup, point_in_time
from feature_repo.stores.online.feast_store import spec_of
from feature_repo.windows.columns import times_us
from feature_repo.windows.spec import INTEGER_FUNCTIONS, is_windowed


class MillstreamOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The configuration of Feast's DuckDB store."""

    type: Literal["feature_repo.stores.offline.MillstreamOfflineStore"] = (
        "feature_repo.stores.offline.MillstreamOfflineStore"
    )


class MillstreamOfflineStore(DuckDBOfflineStore):
    """Point-in-time joins over Parquet; see the module."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **ranges: Any,
    ) -> RetrievalJob:
        """Return a job that computes the features when its result is requested.

        `entity_df` is a data frame, or SQL in DuckDB's dialect in which logs are tables named like their folder
        (`payments`, `labels`). Raises `OfflineStoreError` if there are no entity rows, a key column is missing, or a
        row has no time.
        """
        if entity_df is None or ranges:
            msg = "get_historical_features needs entity rows: a feature is a value of a key at a time"
            raise OfflineStoreError(
                msg,
                todo='pass entity_df, a frame or SQL such as "SELECT account_id, event_timestamp FROM payments"',
            )
        rows = _entity_rows(entity_df)
        time_column = infer_event_timestamp_from_entity_df(dict(zip(rows.columns, rows.dtypes, strict=True)))
        rows[time_column] = pd.to_datetime(rows[time_column], utc=True)
        if rows[time_column].isna().any():
            bad = int(rows[time_column].isna().to_numpy().argmax())
            msg = f"entity row {bad} has no {time_column}; every row needs the time it is asked for"
            raise OfflineStoreError(msg)

        def compute() -> pa.Table:
            return _join(
                config,
                feature_views,
                feature_refs,
                rows,
                time_column,
                full_feature_names,
                filter_by_created_timestamp,
            )

        return _Job(
            compute,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names,
            RetrievalMetadata(
                features=feature_refs,
                keys=[c for c in rows.columns if c != time_column],
                min_event_timestamp=rows[time_column].min().to_pydatetime() if len(rows) else None,
                max_event_timestamp=rows[time_column].max().to_pydatetime() if len(rows) else None,
            ),
            str(config.repo_path),
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to a plain view's folder as a new file, published by rename; Feast's stores rewrite the file."""
        if is_windowed(feature_view):
            msg = f"view {feature_view.name!r} is windowed: its history is the event log, which only the flow writes"
            raise OfflineStoreError(
                msg, todo="publish events to the bus, or bring a file with `python -m flows.bring`"
            )
        source = feature_view.batch_source
        assert isinstance(source, FileSource)
        folder = Path(FileSource.get_uri_for_file_path(config.repo_path, source.path))
        if folder.suffix == ".parquet":
            msg = f"view {feature_view.name!r} reads the single file {folder.name}, which cannot be appended to safely"
            raise OfflineStoreError(msg, where=folder, todo="give its FileSource a folder")
        staging = folder.with_name(f".{folder.name}.staged")
        staging.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / f"{uuid.uuid4().hex}.parquet", folder=staging) as staged:
            pq.write_table(table, staged, compression="zstd", coerce_timestamps="us")
        if progress:
            progress(table.num_rows)


class _Job(RetrievalJob):
    def __init__(
        self,
        compute: Callable[[], pa.Table],
        on_demand: list[OnDemandFeatureView],
        full_names: bool,
        metadata: RetrievalMetadata,
        repo: str,
    ) -> None:
        self._compute = compute
        self._on_demand: list[Any] = [HistoricalOnDemand(view) for view in on_demand]
        self._full_names = full_names
        self._metadata = metadata
        self._repo = repo

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._compute().to_pandas()
        return frame

    @property
    def full_feature_names(self) -> bool:
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        return self._metadata

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        import ibis

        table = ibis.memtable(self.to_arrow(timeout=timeout))
        _write_data_source(table, storage.to_data_source(), self._repo, "overwrite", allow_overwrite)


def _entity_rows(entity_df: pd.DataFrame | str) -> pd.DataFrame:
    if isinstance(entity_df, pd.DataFrame):
        return entity_df.copy()
    if get_security_manager() is not None:
        msg = "entity rows as SQL would read every log, whatever the caller's role"
        raise OfflineStoreError(
            msg, todo="send the rows themselves; a Feast server with authentication takes no SQL"
        )
    with duckdb.connect() as connection:
        for log in sorted(RepoSettings().log_dir.glob("*/")):
            if any(log.glob("*.parquet")):
                if log.name in entity_df:
                    checksums.check(log_files(log))
                connection.execute(
                    f"CREATE VIEW \"{log.name}\" AS SELECT * FROM read_parquet('{log}/*.parquet', union_by_name=true)"
                )
        try:
            rows = connection.sql(entity_df).to_arrow_table()
        except duckdb.Error as error:
            msg = f"the entity SQL cannot be run: {error}"
            raise OfflineStoreError(
                msg, todo="write DuckDB SQL over the log tables (payments, labels, ...)"
            ) from error
    frame: pd.DataFrame = rows.to_pandas()
    return frame


def _join(
    config: RepoConfig,
    views: list[Any],
    refs: list[str],
    rows: pd.DataFrame,
    time_column: str,
    full_names: bool,
    by_created: bool,
) -> pa.Table:
    table = pa.Table.from_pandas(rows, preserve_index=False)
    times = times_us(table.column(time_column))
    columns: dict[str, pa.Array] = {}
    lookups = []
    for view in views:
        name = view.projection.name_to_use()
        wanted = [r.split(":", 1)[1] for r in refs if r.split(":", 1)[0] == name]
        base = view.projection.name_alias or view.name
        output = {f: f"{base}__{f}" if full_names else f for f in wanted}
        entity_columns = _entity_columns(view, table)
        source = view.batch_source
        assert isinstance(source, FileSource)
        path = Path(FileSource.get_uri_for_file_path(config.repo_path, source.path))
        if not is_windowed(view):
            known = by_created or view.tags.get("clock") == "accepted"
            columns |= asof_join(view, path, table, times, entity_columns, output, known)
            continue
        created = source.created_timestamp_column if by_created else None
        lookups.append((Lookup(spec_of(view), path, tuple(entity_columns), created or None), output))
        columns |= dict.fromkeys(output.values())  # keeps the order of views
    for place, values in point_in_time([look for look, _ in lookups], table, times):
        lookup, output = lookups[place]
        for a, column in zip(lookup.spec.aggregates, values.T, strict=True):
            if a.name in output:
                kind = pa.int64() if a.function in INTEGER_FUNCTIONS else pa.float64()
                columns[output[a.name]] = pa.array(column, pa.float64(), from_pandas=True).cast(kind)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _entity_columns(view: FeatureView, table: pa.Table) -> list[str]:
    """Return the entity frame's column for each of the view's sorted join keys."""
    renamed = view.projection.join_key_map or {}
    names = [renamed.get(key, key) for key in sorted(view.join_keys)]
    missing = [n for n in names if n not in table.column_names]
    if missing:
        msg = f"the entity rows have no column {', '.join(map(repr, missing))}, a key of view {view.name!r}"
        raise OfflineStoreError(msg, todo="add the column to entity_df")
    return names
