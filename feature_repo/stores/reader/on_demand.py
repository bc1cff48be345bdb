"""On-demand functions without Feast: imported from files of the repo, and checked against a digest of their source.

Feast stores such a function in its registry as a pickle. A scorer loads no pickle and no code from an artefact: it
imports the function from the installed repo, and refuses one whose source differs from the source that the model was
trained with.

The function of an on-demand view is in a file of its own that is named like it and imports no Feast, for example
`on_demand/functions/payment_place.py`. The digest covers this file and the modules of `feature_repo` that it imports.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from feature_repo.errors import DefinitionError

Transform = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]

_PACKAGE: Final = "feature_repo"
_IMPORTS_FEAST: Final = re.compile(r"^\s*(import|from)\s+feast\b", re.MULTILINE)
_MOVE: Final = (
    "move the function to a file of its own that is named like it and imports no Feast, make the view with"
    " `on_demand_view` of feature_repo/declare, and run `feast apply`"
)
_EARLIER: Final[Mapping[str, str]] = {
    "3c6ee84bcb58b1a2aae6945b30196309f81d0df42c6a4a253b8282d36e03bd8f": "59a13aa9287bc987d566176505a964ca327fc37c9e9cf8fdf2ddc85deb14d980",  # payment_habits
    "80d139ddb1c328702f651120d6a87c62e0a494fad613181752db3e83fd62557e": "59fc4f1e9badaf6594e27044dc6213bc8d67603dffa95a12c8d3fb22567bb5b0",  # payment_in_context
    "3ccb204b3a698a988fc57de2cab4225da247d4b91832e4e61e0d2824ce4d742f": "e63562323fc172cb3ae60c6502c793d42a51413bd8f4146d6fcb3412c8e05ce3",  # payment_itself
    "d0db3d3d793ca643733c584dcf8dca0f7c9c25ec26edbd23621b316bbd76334f": "4c9488b63761d512f5ec805d5b48f2cff4d5db1fd1f8b6bd04f820cdc53087e1",  # payment_parties
    "2846a886e3fe41174a57869ad5d090b386fc0aac748f45f4e5e0e2d9384e0454": "ce0042429a8f6c5fec5c6f5a07d91fdb2276ae011c4c17445dd488fc7b682a7e",  # payment_place
    "75446e91cdc3b7d8f23d2a6b320d935a445a30ecada8970ae2b550d10bedc2cb": "93d02bb8839d8537b8f284e9062824ba0c6a2bf9843e7b5094a570dbd263a29f",  # payment_reputation
}
"""Digest in plans of models trained before functions had files of their own -> digest of the same function today."""


@dataclass(frozen=True)
class OnDemand:
    """One on-demand view: lists of its input columns in, lists of its features out.

    `file` is relative to the repo; `inputs` are (column, view) pairs, view "" for request data; `outputs` are
    (feature, type) pairs; `digest` is that of the function's source.
    """

    name: str
    file: str
    function: str
    digest: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


class Inputs(dict[str, list[Any]]):
    """The inputs of a function for one payment: a list of one value per column, created when the function reads it.

    `sources`: column -> (name of its value, whether it is a feature; else it is request data). Most functions read
    few of the columns that Feast declares for them. To the function, the mapping contains all of them.
    """

    __slots__ = ("_features", "_request", "_sources")

    def __init__(
        self, sources: Mapping[str, tuple[str, bool]], request: Mapping[str, Any], features: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._sources, self._request, self._features = sources, request, features

    def __missing__(self, column: str) -> list[Any]:
        name, is_feature = self._sources[column]
        made = self[column] = [(self._features if is_feature else self._request).get(name)]
        return made

    def __contains__(self, column: object) -> bool:
        return column in self._sources or super().__contains__(column)

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def __len__(self) -> int:
        return len(self.copy())

    def get(self, column: str, default: Any = None) -> Any:
        """Return the list of a column, `default` if there is no such column."""
        return self[column] if column in self else default  # noqa: SIM401  this is `get`

    def keys(self) -> Any:
        """Return all columns."""
        return self.copy().keys()

    def values(self) -> Any:
        """Return the lists of all columns."""
        return self.copy().values()

    def items(self) -> Any:
        """Return all (column, list) pairs."""
        return self.copy().items()

    def copy(self) -> dict[str, list[Any]]:
        """Return a plain dict of all columns."""
        for column in self._sources:
            self[column]
        return super().copy()


def locate(repo: Path, function: str, source: str) -> tuple[str, str]:
    """Return (file relative to the repo, digest) of the function whose name and source text a Feast registry holds.

    Raises `DefinitionError` when no file of the repo that is named like the function defines it, or when the file
    imports Feast.
    """
    for path in sorted(repo.rglob(f"{function}.py")):
        text = path.read_text()
        if _normal(source) in _normal(text):
            if _IMPORTS_FEAST.search(text):
                msg = f"the file of the on-demand function {function!r} imports Feast, which a scorer does not load"
                raise DefinitionError(msg, where=path, todo=_MOVE)
            return path.relative_to(repo).as_posix(), _digest(path, repo)
    msg = f"no file {function}.py of the repo has the source of the on-demand function {function!r} that the registry holds"
    raise DefinitionError(
        msg, where=repo, todo=f"if the repo has changed, run `feast apply` again; else {_MOVE}"
    )


def load(repo: Path, view: OnDemand) -> Transform:
    """Import the function of a view from its file.

    Raises `DefinitionError` when the file is missing or its source differs from the source that the plan was made with.
    """
    digest = _EARLIER.get(view.digest, view.digest)
    path = repo / view.file
    if digest != view.digest:
        path = path.parent / "functions" / path.name
    if not path.resolve().is_relative_to(repo.resolve()) or not path.exists():
        msg = f"the file of on-demand view {view.name!r} is missing"
        raise DefinitionError(msg, where=path, todo="install the repo that the model was trained with")
    if _digest(path, repo) != digest:
        msg = f"on-demand view {view.name!r} is not the one the plan was made with: its source has changed"
        raise DefinitionError(
            msg, where=path, todo="train a model with the new definition, or install the old one"
        )
    spec = spec_from_file_location(f"on_demand_functions.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Transform = getattr(module, view.function)
    return function


def _digest(path: Path, repo: Path) -> str:
    """Return the sha256 of the normal form of a file and of the modules of the repo that it imports."""
    todo, sources = [path], dict[Path, str]()
    while todo:
        file = todo.pop()
        if file not in sources:
            text = file.read_text()
            todo += _imported(ast.parse(text), repo)
            sources[file] = _normal(text)
    parts = [f"{file.relative_to(repo).as_posix()}\n{source}" for file, source in sorted(sources.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _imported(tree: ast.Module, repo: Path) -> Iterator[Path]:
    """Yield the files of the repo that `from feature_repo.x import y` names: module x, or module y of package x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _PACKAGE:
            module = repo.joinpath(*(node.module or "").split(".")[1:])
            names = [module.with_suffix(".py"), *(module / f"{alias.name}.py" for alias in node.names)]
            yield from (file for file in names if file.is_file())


def _normal(source: str) -> str:
    """Return a source text without comments, formatting and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            ]
    return ast.unparse(tree)
