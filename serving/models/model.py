"""A trained model as the scorer uses it, loaded from its directory after every file was checked against its hash.

Nothing is unpickled and no code comes from the artefact: trees are ONNX, the read plan is JSON, and on-demand functions
come from the installed feature repo, only if they are the ones the model was trained with. After loading, the model
must repeat its golden predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from feature_repo.champion_alias import MANIFEST
from feature_repo.errors import ArtefactError, DefinitionError
from feature_repo.stores.reader.plan import Plan
from feature_repo.stores.reader.reader import Reader
from serving.models.onnx_trees import Trees
from serving.models.verified_artefact import RESTORE, verified

NEEDED: Final = ("model.onnx", "plan.json")


@dataclass(frozen=True, kw_only=True)
class Model(Trees):
    """One version of a model. `reader` makes its feature vectors; `digest` is the sha256 of its manifest as promoted.

    `fallback` is a model on the payment alone; None if the artefact has none.
    """

    name: str
    version: str
    digest: str
    created: str
    service: str
    schema_hash: str
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    reader: Reader
    fallback: Trees | None

    def problems(self) -> list[str]:
        """Return what does not fit together; empty if everything does."""
        plan, wrong = self.reader.plan, []
        if plan.service != self.service:
            wrong.append(f"the plan reads service {plan.service!r}, the model wants {self.service!r}")
        if plan.schema_hash != self.schema_hash:
            wrong.append("the plan's definitions are not those the model was trained on (schema_hash)")
        if plan.feature_names != self.features:
            wrong.append("the plan's features are not the model's, in its order")
        if self.fallback is not None and (unknown := {*self.fallback.features} - {*plan.of_request}):
            wrong.append(
                f"the fallback needs {', '.join(sorted(unknown))}, which the payment alone does not give"
            )
        return wrong + super().problems()


def load_model(artefact: Path, repo: Path, *, threads: int = 1, digest: str = "") -> Model:
    """Load the directory of a version. Raises `ArtefactError` if it is not exactly what training wrote.

    `repo` is the folder of on-demand functions. `digest` is the sha256 that the manifest must have, from the alias;
    empty: not checked.
    """
    manifest, files = verified(artefact, digest)
    if missing := [name for name in NEEDED if name not in files]:
        raise ArtefactError(f"{missing[0]} is not in the manifest", where=artefact, todo=RESTORE)
    try:
        reader = Reader(Plan.parse(files["plan.json"], artefact / "plan.json"), repo)
    except DefinitionError as error:
        raise ArtefactError(
            f"the reading plan does not fit the installed feature repo: {error}",
            where=artefact,
            todo="train a model with these definitions",
        ) from error
    try:
        if artefact.name != (version := str(manifest["version"])):
            raise ArtefactError(f"it is version {version!r}", where=artefact, todo=RESTORE)
        return Model.load(
            files["model.onnx"],
            manifest,
            threads,
            artefact,
            name=str(manifest["name"]),
            version=version,
            digest=digest,
            created=str(manifest["created"]),
            service=str(manifest["service"]),
            schema_hash=str(manifest["schema_hash"]),
            metrics=dict(manifest["metrics"]),
            data=dict(manifest["data"]),
            reader=reader,
            fallback=_fallback(manifest.get("fallback"), files, threads, artefact),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(
            f"the manifest lacks something: {error!r}", where=artefact / MANIFEST, todo=RESTORE
        ) from error


def _fallback(
    said: Mapping[str, Any] | None, files: Mapping[str, bytes], threads: int, artefact: Path
) -> Trees | None:
    if said is None:
        return None
    return Trees.load(files[str(said["file"])], said, threads, artefact / str(said["file"]))
