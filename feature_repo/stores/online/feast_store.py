"""Feast's Redis online store, extended by windowed views. Named in `feature_store.yaml` as `online_store.type`.

Plain feature views are stored byte for byte as Feast does. Three things differ from Feast's store on purpose:

* a view's `ttl` is honoured online: an older value is null (Feast returns it);
* an entity that was never written is NOT_FOUND (Feast says PRESENT with nulls);
* writes compare event times inside Redis, so a slower second writer cannot restore an older row.

A windowed view is read from its packed state and computed as of now (`clock.as_of` sets another time). A key without a
state has had no events: its counts and sums are 0, everything else is null. All features are null if the read lies
further in the past than the state, or an expired key, can answer; if Redis has a state of another version of the view
only; and if the version is not filled yet.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from feast import Entity, FeatureView, RepoConfig, ValueType
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, _versioned_fv_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.stream_feature_view import StreamFeatureView
from feast.utils import (
    _get_entity_key_protos,
    _get_table_entity_values,
    _get_unique_entities,
    _populate_response_from_feature_data,
)
from pydantic import StrictStr, model_validator

from feature_repo.errors import DefinitionError, OnlineStoreError
from feature_repo.redis_url import RedisAddress
from feature_repo.settings import RepoSettings
from feature_repo.stores.applied_views import (
    AppliedViews,
    PlainSpec,
    group_by_stream,
    read_views,
    superseded,
    write_views,
)
from feature_repo.stores.clock import read_time_us, to_us, wall_clock_us
from feature_repo.stores.feast_compat import mend
from feature_repo.stores.online.plain_writer import STORED_TIME, projected_key
from feature_repo.stores.redis_layout.keys import (
    VALUE_KINDS,
    decode_timestamp,
    encode_timestamp,
    key_prefix,
    state_field,
    time_field,
)
from feature_repo.stores.redis_layout.view_versions import KeptVersions, publish, versions_key
from feature_repo.windows.read import expired_before, read_state
from feature_repo.windows.spec import INTEGER_FUNCTIONS, ViewSpec, is_windowed, view_spec

Row = tuple[datetime | None, dict[str, Value] | None]
WriteRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

log = logging.getLogger(__name__)

mend()

VERSIONS_SECONDS: Final = 2.0
"""Maximum age of the cached information about the versions kept online."""
TIMEOUTS = "socket_timeout=2.0,socket_connect_timeout=1.0,retry=null"
"""Timeouts: without them a dead Redis blocks a read for 12 s, a frozen one for longer."""

# KEYS: one hash. ARGV: time field, new time (us, as text), its protobuf bytes, then field, value, ...
# Written only if the stored time is older than the new one.
_WRITE_PLAIN = (
    STORED_TIME
    + """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and us(old) >= tonumber(ARGV[2]) then return 0 end
local fields = {ARGV[1], ARGV[3]}
for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[1], unpack(fields))
return 1
"""
)


class MillstreamOnlineStoreConfig(RedisOnlineStoreConfig):
    """Feast's Redis configuration; without a `connection_string`, `REDIS_URL` is used (see `feature_repo.settings`)."""

    type: Literal["feature_repo.stores.online.MillstreamOnlineStore"] = (
        "feature_repo.stores.online.MillstreamOnlineStore"  # type: ignore[assignment]
    )
    connection_string: StrictStr = ""
    home: StrictStr = ""
    """Folder of run-time files, into which `feast apply` writes the applied views; default `MILLSTREAM_HOME`."""

    @model_validator(mode="after")
    def _fill_in(self) -> MillstreamOnlineStoreConfig:
        settings = RepoSettings()
        if not self.connection_string:
            self.connection_string = connection_string(settings.redis_url)
        if not self.home:
            self.home = str(settings.home)
        return self


def connection_string(url: str) -> str:
    """Return a `redis://` or `rediss://` URL as Feast's connection string: `host:port,db=0,...`.

    Raises `SettingsError` if it is not a Redis URL, and `OnlineStoreError` for a Unix socket, which Feast does not
    support.
    """
    address = RedisAddress.parse(url)
    if address.path:
        raise OnlineStoreError(
            "Feast cannot use a Unix socket", todo="set REDIS_URL to redis://127.0.0.1:6379/0"
        )
    words = [f"{address.host}:{address.port}", TIMEOUTS]
    if address.db:
        words.append(f"db={address.db}")
    if address.user:
        words.append(f"username={address.user}")
    if address.password:
        words.append(f"password={address.password}")
    if address.tls:
        words.append("ssl=true")
    words += [f"{name}={value}" for name, value in address.options]
    return ",".join(words)


class MillstreamOnlineStore(RedisOnlineStore):
    """One row per entity and view, as of the read time. One pipelined round trip for all views of a request."""

    _known: tuple[float, KeptVersions] | None = None
    _told: frozenset[str] = frozenset()

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Handle `feast apply`: check the views that flows keep, write them to `views.json`, delete removed ones.

        Feast passes only views with `online=True`; flows do not compute the others.
        """
        windowed = [t for t in tables_to_keep if is_windowed(t)]
        for table in windowed:
            check_windowed(table)
        home = Path(config.online_store.home)
        path = home / "views.json"
        gone = {t.name for t in (*tables_to_delete, *tables_to_keep)}
        before = read_views(path) if path.exists() else AppliedViews(config.project, {})
        kept = before if partial else AppliedViews(config.project, {})  # partial: `store.apply([one view])`
        folded = [(s, spec) for s, specs in kept.streams.items() for spec in specs if spec.name not in gone]
        folded += [(stream_of(t), view_spec(t)) for t in windowed]
        written = [(s, spec) for s, specs in kept.plain.items() for spec in specs if spec.name not in gone]
        written += [
            (stream_of(t), plain_spec(t, _versioned_fv_name(t, config)))
            for t in tables_to_keep
            if reads_a_log(t, home)
        ]
        streams = group_by_stream(folded)
        applied = AppliedViews(config.project, streams, group_by_stream(written), superseded(before, streams))
        write_views(path, applied)
        self._publish(config, applied)
        plain = [
            t for t in tables_to_delete if not is_windowed(t)
        ]  # windowed ones stay until they are retired
        super().update(config, plain, tables_to_keep, entities_to_delete, entities_to_keep, partial)

    def _publish(self, config: RepoConfig, applied: AppliedViews) -> None:
        """Publish which versions are kept. If the server is not running, the flow publishes them when it starts."""
        from redis.exceptions import RedisError

        try:
            publish(self._get_client(config.online_store), config.project, applied.every_kept())
        except RedisError as error:
            log.warning(
                "the online store does not answer; the flow will publish the versions kept: %s", error
            )

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete a view's fields of every entity; of a windowed view, the state of this version and its time."""
        client = self._get_client(config.online_store)
        if not is_windowed(table):
            super().delete_table(config, table)
            client.hdel(projected_key(config.project), _versioned_fv_name(table, config))
            return
        name = _versioned_fv_name(table, config)
        prefix = key_prefix(table.join_keys)
        with client.pipeline(transaction=False) as pipe:
            for key in client.scan_iter(prefix + b"*" + config.project.encode()):
                pipe.hdel(key, state_field(spec_of(table)), time_field(name))
            pipe.execute()

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete every key of these views."""
        client = self._get_client(config.online_store)
        client.delete(projected_key(config.project), versions_key(config.project))
        super().teardown(config, tables, entities)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WriteRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write each row of a plain view unless a newer one is stored; `OnlineStoreError` for a windowed view."""
        if is_windowed(table):
            msg = f"view {table.name!r} is windowed: its online state is kept by the flow, not by push or materialize"
            raise OnlineStoreError(
                msg,
                todo="publish events to the bus and run `python -m bytewax.run flows.payments`, or name other --views",
            )
        client = self._get_client(config.online_store)
        write = client.register_script(_WRITE_PLAIN)
        name = _versioned_fv_name(table, config)
        keys = self._generate_redis_keys_for_entities(config, [row[0] for row in data])
        ttl = config.online_store.key_ttl_seconds
        with client.pipeline(transaction=False) as pipe:
            for key, (_, values, when, _) in zip(keys, data, strict=True):
                us = to_us(when)
                arguments: list[Any] = [time_field(name), us, encode_timestamp(us)]
                _, fields = self._generate_hset_keys_for_features(table, list(values), fv_name_override=name)
                for field, value in zip(fields, values.values(), strict=False):
                    arguments += [field, value.SerializeToString()]
                write(keys=[key], args=arguments, client=pipe)
                pipe.expire(key, ttl) if ttl else pipe.persist(
                    key
                )  # a hash shared with windows must not expire with them
            pipe.execute()
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """Return, per entity key in order, (event time of the newest event, values by feature)."""
        work = _Work(self, config, table, entity_keys, requested_features)
        replies: Any = self._read_hash_fields(config, work.commands)
        return work.rows(replies, read_time_us())

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """Return what `online_read` returns."""
        work = _Work(self, config, table, entity_keys, requested_features)
        return work.rows(await self._fetch_async(config, work.commands), read_time_us())

    def _read_features_per_fv(self, config: RepoConfig, grouped_refs: Any, *rest: Any) -> None:
        works = self._works(config, grouped_refs, *rest[:2])
        replies = self._read_hash_fields(config, [c for work, _, _ in works for c in work.commands])
        _answer(works, replies, *rest[2:])

    async def _read_features_per_fv_async(self, config: RepoConfig, grouped_refs: Any, *rest: Any) -> None:
        works = self._works(config, grouped_refs, *rest[:2])
        replies = await self._fetch_async(config, [c for work, _, _ in works for c in work.commands])
        _answer(works, replies, *rest[2:])

    def _works(
        self, config: RepoConfig, grouped_refs: Any, join_key_values: Any, entity_to_join_key: Any
    ) -> list[Any]:
        works = []
        for table, requested in grouped_refs:
            values, indexes, length = _unique_entities(table, join_key_values, entity_to_join_key)
            works.append(
                (_Work(self, config, table, _get_entity_key_protos(values), requested), indexes, length)
            )
        return works

    def missing_is_unknown(self, config: RepoConfig, spec: ViewSpec) -> bool:
        """Whether a key without a state may have had events: this version is not kept, or not filled yet."""
        now = time.monotonic()
        if self._known is None or now - self._known[0] > VERSIONS_SECONDS:
            fields = self._get_client(config.online_store).hkeys(versions_key(config.project))
            self._known = (now, KeptVersions.of(fields))
        problem = self._known[1].problem(spec)
        if problem and problem not in self._told:
            self._told |= {problem}
            log.warning("features are null: %s", problem)
        return bool(problem)

    async def _fetch_async(self, config: RepoConfig, commands: list[Any]) -> Any:
        client = await self._get_client_async(config.online_store)
        async with client.pipeline(transaction=False) as pipe:
            for key, fields in commands:
                pipe.hmget(key, fields)
            return await pipe.execute()


class _Work:
    """One view of a request: the fields to fetch per entity, and how to turn replies into rows."""

    def __init__(
        self,
        store: MillstreamOnlineStore,
        config: RepoConfig,
        table: FeatureView,
        entities: list[EntityKey],
        requested: list[str] | None,
    ) -> None:
        self.table = table
        self.requested = list(requested or [f.name for f in table.features])
        self._name = _versioned_fv_name(table, config)
        self._spec = spec_of(table) if is_windowed(table) else None
        self._unknown = False
        if self._spec is not None:
            self._fields: list[Any] = [state_field(self._spec), time_field(self._name)]
            self._unknown = store.missing_is_unknown(config, self._spec)
        else:
            _, self._fields = store._generate_hset_keys_for_features(
                table, list(self.requested), fv_name_override=self._name
            )
        keys = store._generate_redis_keys_for_entities(config, entities)
        self.commands = [(key, self._fields) for key in keys]

    def rows(self, replies: Sequence[Sequence[bytes | None]], now: int) -> list[Row]:
        if self._spec is not None:
            return [self._windowed(state, time, self._spec, now) for state, time in replies]
        return [self._plain(reply, now) for reply in replies]

    def _windowed(self, state: bytes | None, time: bytes | None, spec: ViewSpec, now: int) -> Row:
        if state is None and (time is not None or self._unknown):  # events, but no state of this version
            return _when(time), dict.fromkeys(self.requested, Value())
        values, _ = read_state(state, spec, now, expired_before(spec, wall_clock_us()))
        by_name = {
            a.name: _proto(v, a.function) for a, v in zip(spec.aggregates, values.tolist(), strict=True)
        }
        return _when(time), {name: by_name[name] for name in self.requested}

    def _plain(self, reply: Sequence[bytes | None], now: int) -> Row:
        *values, time = reply
        if time is None:
            return None, None
        ttl = self.table.ttl
        if ttl and decode_timestamp(time) < now - ttl // timedelta(microseconds=1):
            return _when(time), {name: Value() for name in self.requested}
        return _when(time), {
            n: Value.FromString(v) if v else Value() for n, v in zip(self.requested, values, strict=True)
        }


def _unique_entities(
    table: FeatureView, join_key_values: Any, entity_to_join_key: Any
) -> tuple[Any, Any, int]:
    """Return what Feast's `_get_unique_entities` returns, which fails on a null key; here such a row is left out.

    Its features stay null.
    """
    columns = list(_get_table_entity_values(table, entity_to_join_key, join_key_values).values())
    whole = [i for i, row in enumerate(zip(*columns, strict=True)) if all(v.WhichOneof("val") for v in row)]
    length = len(columns[0]) if columns else 0
    if len(whole) == length:
        entities, indexes, length = _get_unique_entities(table, join_key_values, entity_to_join_key)
        return entities, indexes, length
    if not whole:
        return (), (), length
    kept = {name: [values[i] for i in whole] for name, values in join_key_values.items()}
    entities, indexes, _ = _get_unique_entities(table, kept, entity_to_join_key)
    return entities, tuple([whole[i] for i in places] for places in indexes), length


def _answer(works: list[Any], replies: Any, response: Any, full_names: bool, with_versions: bool) -> None:
    now = read_time_us()
    at = 0
    for work, indexes, length in works:
        rows = work.rows(replies[at : at + len(work.commands)], now)
        at += len(work.commands)
        _populate_response_from_feature_data(
            work.requested, rows, indexes, response, full_names, work.table, length, with_versions
        )


def _proto(value: float, function: str) -> Value:
    if math.isnan(value):
        return Value()
    return Value(int64_val=int(value)) if function in INTEGER_FUNCTIONS else Value(double_val=value)


def _when(time: bytes | None) -> datetime | None:
    if time is None:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=decode_timestamp(time))


_SPECS: dict[Any, ViewSpec] = {}


def spec_of(table: FeatureView) -> ViewSpec:
    """Return the spec of a windowed view, created once per definition."""
    assert isinstance(table, StreamFeatureView)
    definition = (
        table.name,
        tuple(table.join_keys),
        table.enable_tiling,
        table.tiling_hop_size,
        tuple(sorted(table.tags.items())),
        tuple((a.name, a.function, a.column, a.time_window) for a in table.aggregations),
    )
    if definition not in _SPECS:
        _SPECS[definition] = view_spec(table)
    return _SPECS[definition]


def check_windowed(table: FeatureView) -> None:
    """Raise `DefinitionError` for a windowed view whose keys or schema cannot be served."""
    spec = spec_of(table)
    for column in table.entity_columns:
        if column.dtype.to_value_type() is not ValueType.STRING:
            msg = f"view {table.name!r}: join key {column.name!r} is {column.dtype}; windowed views have String keys"
            raise DefinitionError(
                msg, todo="give the entity value_type=ValueType.STRING and write the key as a string"
            )
    declared = {f.name for f in table.features}
    if declared != set(spec.feature_names):
        odd = sorted(declared.symmetric_difference(spec.feature_names))
        msg = f"view {table.name!r}: schema and aggregations do not name the same features ({', '.join(odd)})"
        raise DefinitionError(msg, todo="derive it: schema=schema_of(aggregations)")


def stream_of(table: FeatureView) -> str:
    """Return the stream of a view: the last folder of its batch source's path, the name of the event log."""
    source = table.batch_source
    path = getattr(source, "path", None)
    if not path:
        msg = f"view {table.name!r} has no file source, so there is no event log to fold"
        raise DefinitionError(msg, todo="give its stream source a batch_source=FileSource(path=<log folder>)")
    return Path(path.rstrip("/")).name


def reads_a_log(table: FeatureView, home: Path) -> bool:
    """Whether a view is a plain one over a log of this home, so that a flow keeps it online."""
    path = getattr(table.batch_source, "path", None) if isinstance(table, FeatureView) else None
    if not path or is_windowed(table):
        return False
    return Path(path).resolve().parent == (home / "log").resolve()


def plain_spec(table: FeatureView, name: str) -> PlainSpec:
    """Return a plain view over a log in the form its flow needs; `name` is the name used in its hash fields.

    Raises `DefinitionError` for keys that are not strings and features that are not scalars, which a flow cannot
    write.
    """
    source = table.batch_source
    assert source is not None
    in_log = {new: old for old, new in (source.field_mapping or {}).items()}
    kinds = {f.name: f.dtype.to_value_type().name.lower() for f in table.features}
    odd = [
        f"{c.name} ({c.dtype})"
        for c in table.entity_columns
        if c.dtype.to_value_type() is not ValueType.STRING
    ]
    odd += [f"{feature} ({kind})" for feature, kind in kinds.items() if kind not in VALUE_KINDS]
    if odd:
        msg = f"view {table.name!r}: a flow cannot write {', '.join(odd)}"
        raise DefinitionError(
            msg,
            todo=f"keys are strings, features one of {', '.join(sorted(VALUE_KINDS))}; or set online=False",
        )
    keys = tuple(sorted(table.join_keys))
    return PlainSpec(
        name=name,
        join_keys=keys,
        key_columns=tuple(in_log.get(key, key) for key in keys),
        features=tuple((in_log.get(f, f), kind, _mmh3(f"{name}:{f}").hex()) for f, kind in kinds.items()),
        ttl_us=(table.ttl or timedelta(0)) // timedelta(microseconds=1),
    )
