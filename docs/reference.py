"""Write docs/reference.md from the code, so that every setting and metric is documented: `python docs/reference.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from feature_repo.declare.stream import DROP, LOG_COLUMNS, PARTY, PSEUDONYM, Column
from feature_repo.deprecated import RENAMED
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from flows import metrics as flow_metrics
from flows.settings import FlowSettings
from flows.streams import STREAMS
from serving import metrics as scorer_metrics
from serving.settings import ScorerSettings
from training.settings import TrainingConfig

HEAD = """# Reference: settings, metrics, streams, files

<!-- Written by `make docs` from the code; edit the descriptions there. -->

Settings are environment variables; a process reads them once, at start, and refuses invalid values.
A deprecated name still works in this release: the process warns about a setting, and a metric has the values of the new one.
Training also has a YAML file, because a model depends on it.
"""

FILES = """## Files

Everything that is written at run time is in the home folder (`MILLSTREAM_HOME`).

| path | content |
|---|---|
| `log/<stream>/` | the event logs, one per stream: immutable Parquet files, from which everything else can be rebuilt |
| `dead_letters/<stream>/` | events that were not accepted: encrypted bytes, reason, and origin |
| `dead_letters/<stream>.redriven.jsonl` | which of them were resent, and where ([dead letters](dead-letters.md)) |
| `pseudonyms.json` | id and fingerprint of the key that the data was written with; the key itself is in the environment or `.env` |
| `api_keys.json` | the scorer's API keys, as hashes ([security](security.md)) |
| `erased/` | tombstones of erased accounts: their pseudonyms, and the time up to which their events are rejected |
| `staging/` | log files of epochs that are not durable yet; readers ignore them |
| `recovery/`, `checkpoints/` | what the flows need to continue after a restart |
| `redis/`, `redis.url` | the embedded server: its append-only file, its log, its address while it runs |
| `registry.db`, `views.json` | what the last `feast apply` declared, for Feast and for the flow |
| `models/<name>/<version>/`, `models/<name>/champion` | model directories, and the name of the model in use |
| `data_docs/` | Great Expectations' report about the last training set |
| `scores/*.jsonl` | every answer of the scorer with its feature vector |
| `skew.json` | the last skew report |
| `generated/`, `brought/<name>/` | generated histories, converted files |
| `logs/`, `traffic.json` | written by `make demo` and `make up`: one log per process, and what live traffic measured |
| `demo/` | home of `make demo`, emptied at each start; its result is `demo/summary.json` |
"""


def main() -> None:
    """Write the page."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT_ROOT / "docs" / "reference.md"
    target.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, model, inherited in (
        ("Everywhere", RepoSettings, None),
        ("Flows", FlowSettings, RepoSettings),
        ("Scorer", ScorerSettings, RepoSettings),
    ):
        parts += [f"## {title}\n", *_table(("variable", "default", "meaning"), _settings(model, inherited))]
    parts += [
        "## Training\n",
        "Keys of the YAML file that `python -m training.train --config` takes; the default is `training/fraud_detection.yaml`.\n",
        *_table(("key", "default", "meaning"), _keys(TrainingConfig)),
        "## Demo and others\n",
        *_table(
            ("variable", "default", "meaning"),
            [
                ("`DEMO_SECONDS`", "60", "Length of the live part of `make demo`"),
                (
                    "`NUMBA_CACHE_DIR`",
                    "`~/.cache/millstream/...`",
                    "Where compiled kernels are kept, so that the second start is quick",
                ),
                (
                    "`COMPILED_KERNELS_DIR`",
                    "",
                    "Folder of kernels that `python -m serving.models.warm_up` compiled; a process copies them into an empty cache",
                ),
            ],
        ),
        "## Metrics of the flows\n",
        "Served at `MILLSTREAM_METRICS_PORT` of the flow's process.\n",
        *_table(("metric", "kind", "labels", "meaning"), _metrics(flow_metrics.CATALOGUE)),
        "## Metrics of the scorer\n",
        "Served at `/metrics`.\n",
        *_table(("metric", "kind", "labels", "meaning"), _metrics(scorer_metrics.CATALOGUE)),
        *_streams(),
        FILES,
    ]
    return "\n".join(parts)


def _streams() -> Iterator[str]:
    """The declared streams, a table of columns each; what the flow adds to every event once."""
    yield "## Streams\n"
    yield (
        "What the files of `feature_repo/streams` declare: the columns of each stream's log ([add a stream](add-a-stream.md)).\n"
        "A column is what a producer writes, or what the flow joins or derives when it accepts an event.\n"
    )
    header = ("column", "type", "meaning", "unit", "null", "from")
    for stream in STREAMS.values():
        yield f"### {stream.name}\n"
        kind = "A changelog" if stream.changelog else "Events"
        yield f"{kind}, {stream.grain}; id `{stream.id_column}`, partitioned by `{stream.partition_by}`.\n"
        parts = (("the producer", stream.columns), ("a join", stream.joined), ("the flow", stream.derived))
        yield from _table(header, [_column(c, origin) for origin, columns in parts for c in columns])
    yield "### Every log\n"
    yield from _table(header[:-1], [_column(c, "")[:-1] for c in LOG_COLUMNS])


def _column(column: Column, origin: str) -> tuple[str, ...]:
    treatments = {
        DROP: "dropped on ingestion",
        PSEUDONYM: "kept as a pseudonym",
        PARTY: "kept as a pseudonym",
    }
    treated = treatments.get(column.personal)
    meaning = column.meaning + (f" ({treated})" if treated else "")
    return (f"`{column.name}`", str(column.type), meaning, column.unit, column.null or "never", origin)


def variables(name: str, field: FieldInfo) -> list[str]:
    """The environment variables a setting is read from, the preferred one first."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [alias if isinstance(alias, str) else f"MILLSTREAM_{name.upper()}"]


def _settings(model: type[BaseModel], inherited: type[BaseModel] | None) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if inherited is None or name not in inherited.model_fields:
            names = variables(name, field)
            old = [f"`{v}`" for v in names if v in RENAMED]
            yield (
                " or ".join(f"`{v}`" for v in names if v not in RENAMED),
                _default(field),
                (field.description or "") + (f". Deprecated name: {', '.join(old)}" if old else ""),
            )


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, ...]]:
    loaded = TrainingConfig.load()
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _keys(annotation, f"{prefix}{name}.")
            continue
        value: Any = loaded
        for part in f"{prefix}{name}".split("."):
            value = getattr(value, part)
        if name == "rules":
            value = f"{len(value)} rules"
        yield f"`{prefix}{name}`", _shown(value), field.description or ""


def _metrics(catalogue: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for metric in catalogue.values():
        yield (
            f"`{metric.name}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.meaning,
        )


def _default(field: FieldInfo) -> str:
    if field.default_factory is dict:
        return "empty"
    if field.default is PydanticUndefined:
        return "`<home>/redis.url`, else `redis://127.0.0.1:6379/0`"
    return _shown(field.default)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if value == "":
        return "empty"
    if isinstance(value, Path):
        return f"`{value.relative_to(PROJECT_ROOT)}`" if value.is_relative_to(PROJECT_ROOT) else f"`{value}`"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


if __name__ == "__main__":
    main()
