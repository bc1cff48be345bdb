"""The plan for reading a feature service: what to fetch, how to compute the features, and their order in a vector.

It is made from the registry (`compile_plan`, which imports Feast), saved as JSON beside the model, and loaded by the
scorer without Feast.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.errors import DefinitionError
from feature_repo.stores.reader.on_demand import OnDemand
from feature_repo.windows.spec import INTEGER_FUNCTIONS, ViewSpec

if TYPE_CHECKING:
    from feast import FeatureStore

INT, FLOAT, BOOL, STRING, TIME = "int64", "float64", "bool", "string", "timestamp"


@dataclass(frozen=True)
class WindowedRead:
    """A windowed view: its spec, the request columns with its sorted join keys, and the stream whose events it folds.

    The stream is empty in a plan that an older version made.
    """

    spec: ViewSpec
    entity_columns: tuple[str, ...]
    stream: str = ""


@dataclass(frozen=True)
class PlainRead:
    """A plain feature view: (feature, type, hash field in hex) triples, and its ttl (us; 0: values do not expire)."""

    name: str
    join_keys: tuple[str, ...]
    entity_columns: tuple[str, ...]
    features: tuple[tuple[str, str, str], ...]
    ttl_us: int


@dataclass(frozen=True)
class Plan:
    """How to read one feature service. `columns` is the order of a vector: (feature, type)."""

    project: str
    service: str
    windowed: tuple[WindowedRead, ...]
    plain: tuple[PlainRead, ...]
    on_demand: tuple[OnDemand, ...]
    request: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]

    @property
    def entity_columns(self) -> tuple[str, ...]:
        """The request columns that name entities, sorted."""
        return tuple(
            sorted(
                {c for reads in (self.windowed, self.plain) for read in reads for c in read.entity_columns}
            )
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in the order of a vector."""
        return tuple(name for name, _ in self.columns)

    @property
    def of_request(self) -> tuple[str, ...]:
        """The features computed from the payment alone, without reading the store."""
        alone = {
            name
            for view in self.on_demand
            if all(source == "" for _, source in view.inputs)
            for name, _ in view.outputs
        }
        return tuple(name for name in self.feature_names if name in alone)

    @property
    def schema_hash(self) -> str:
        """sha256 of everything that decides the values: definitions, functions, order."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON types."""
        windowed = [
            {"spec": r.spec.to_dict(), "entity_columns": r.entity_columns}
            | ({"stream": r.stream} if r.stream else {})
            for r in self.windowed
        ]
        made = {k: v for k, v in asdict(self).items() if k != "windowed"} | {"windowed": windowed}
        plain: dict[str, Any] = json.loads(json.dumps(made))
        return plain

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a saved plan. Raises `DefinitionError` when the file is not a plan."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _no_plan(error, path) from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, where: Path) -> Plan:
        """Parse a saved plan; `where` is named in errors. Raises `DefinitionError` when the content is not a plan."""
        try:
            made = json.loads(content)
            return cls(
                project=made["project"],
                service=made["service"],
                windowed=tuple(
                    WindowedRead(
                        ViewSpec.from_dict(r["spec"]), tuple(r["entity_columns"]), r.get("stream", "")
                    )
                    for r in made["windowed"]
                ),
                plain=tuple(_plain_read(r) for r in made["plain"]),
                on_demand=tuple(
                    OnDemand(**(o | {"inputs": _pairs(o["inputs"]), "outputs": _pairs(o["outputs"])}))
                    for o in made["on_demand"]
                ),
                request=_pairs(made["request"]),
                columns=_pairs(made["columns"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_plan(error, where) from error


def _no_plan(error: Exception, where: Path) -> DefinitionError:
    return DefinitionError(
        f"not a reading plan: {error!r}", where=where, todo="train the model again, or restore its folder"
    )


def compile_plan(store: FeatureStore, service: str, repo: Path | None = None) -> Plan:
    """Return the plan of a feature service in the registry. `repo` is the folder that holds its on-demand functions.

    Raises `DefinitionError` for an unknown service, and for what a scorer cannot read, such as an on-demand view in a
    mode other than python.
    """
    from feast.errors import FeatureServiceNotFoundException
    from feast.utils import _get_feature_views_to_use, _get_features, _group_feature_refs

    from feature_repo.stores.open_store import REPO
    from feature_repo.windows.spec import is_windowed

    try:
        found = store.get_feature_service(service)
    except FeatureServiceNotFoundException as error:
        names = ", ".join(s.name for s in store.list_feature_services()) or "none"
        msg = f"there is no feature service {service!r} in the registry; there are: {names}"
        raise DefinitionError(msg, todo="declare it in services.py and run `feast apply`") from error
    views, on_demand = _get_feature_views_to_use(store.registry, store.project, found)
    grouped, _ = _group_feature_refs(_get_features(store.registry, store.project, found), views, on_demand)
    windowed, plain = [], []
    for view, _ in grouped:
        if is_windowed(view):
            windowed.append(_windowed_read(view))
        else:
            plain.append(_plain_view(view, store))
    functions = tuple(_on_demand(view, repo or REPO) for view in on_demand)
    request: dict[str, str] = {}
    for view in on_demand:
        for name, kind in view.get_request_data_schema().items():
            request[name] = _type(kind)
    types = {
        a.name: INT if a.function in INTEGER_FUNCTIONS else FLOAT for r in windowed for a in r.spec.aggregates
    }
    types |= {f: kind for p in plain for f, kind, _ in p.features} | {
        f: kind for o in functions for f, kind in o.outputs
    }
    columns = tuple(
        (f.name, types[f.name]) for projection in found.feature_view_projections for f in projection.features
    )
    return Plan(
        store.project,
        service,
        tuple(windowed),
        tuple(plain),
        functions,
        tuple(sorted(request.items())),
        columns,
    )


def _windowed_read(view: Any) -> WindowedRead:
    from feature_repo.stores.online.feast_store import spec_of

    stream = view.stream_source.name if view.stream_source is not None else ""
    return WindowedRead(spec_of(view), _entity_columns(view), stream)


def _plain_view(view: Any, store: FeatureStore) -> PlainRead:
    from datetime import timedelta

    from feast.infra.online_stores.helpers import _mmh3

    features = tuple(
        (f.name, _type(f.dtype.to_value_type()), _mmh3(f"{view.name}:{f.name}").hex()) for f in view.features
    )
    ttl = (view.ttl or timedelta(0)) // timedelta(microseconds=1)
    return PlainRead(view.name, tuple(sorted(view.join_keys)), _entity_columns(view), features, ttl)


def _entity_columns(view: Any) -> tuple[str, ...]:
    renamed = view.projection.join_key_map or {}
    return tuple(renamed.get(key, key) for key in sorted(view.join_keys))


def _on_demand(view: Any, repo: Path) -> OnDemand:
    from feature_repo.stores.reader.on_demand import locate

    mode = getattr(view.mode, "value", view.mode)
    if mode != "python" or view.singleton:
        msg = f"on-demand view {view.name!r} has mode {mode!r}{', singleton' if view.singleton else ''}; a scorer runs mode python on lists"
        raise DefinitionError(msg, todo='declare it with mode="python" and without singleton')
    assert view.feature_transformation is not None
    function = view.feature_transformation.udf.__name__
    file, digest = locate(repo, function, view.feature_transformation.udf_string)
    inputs = [
        (f.name, p.name_to_use()) for p in view.source_feature_view_projections.values() for f in p.features
    ]
    inputs += [(name, "") for name in view.get_request_data_schema()]
    outputs = tuple((f.name, _type(f.dtype.to_value_type())) for f in view.features)
    return OnDemand(view.name, file, function, digest, tuple(inputs), outputs)


def _type(kind: Any) -> str:
    from feast import ValueType

    known = {
        ValueType.INT64: INT,
        ValueType.INT32: INT,
        ValueType.DOUBLE: FLOAT,
        ValueType.FLOAT: FLOAT,
        ValueType.BOOL: BOOL,
        ValueType.STRING: STRING,
        ValueType.UNIX_TIMESTAMP: TIME,
    }
    if kind not in known:
        msg = f"a scorer cannot read features of type {kind}"
        raise DefinitionError(msg, todo="use a number, a boolean, a string or a timestamp")
    return known[kind]


def _plain_read(made: dict[str, Any]) -> PlainRead:
    features = tuple((f, kind, field) for f, kind, field in made["features"])
    return PlainRead(
        made["name"], tuple(made["join_keys"]), tuple(made["entity_columns"]), features, made["ttl_us"]
    )


def _pairs(made: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, b in made)
