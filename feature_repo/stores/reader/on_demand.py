"""On-demand functions without Feast: found in the repo's files, compiled on their own, pinned by a digest.

Feast stores such a function in its registry as a pickle of its code. A scorer loads no pickle and no code from an artefact: it takes
the function from the installed repo, and refuses one whose source is no longer the one the model was trained with.
Only the function, the module-level functions and constants it uses, and imports other than Feast's are executed; modules of the repo
that it imports are part of the digest.
"""

from __future__ import annotations

import ast
import hashlib
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import DefinitionError

Transform = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]


@dataclass(frozen=True)
class OnDemand:
    """One on-demand view: lists of its input columns in, lists of its features out.

    `file` is relative to the repo; `inputs` are (column, view) pairs, view "" for request data; `outputs` are (feature, type).
    """

    name: str
    file: str
    function: str
    digest: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


class Inputs(dict[str, list[Any]]):
    """What a function is given for one payment: a list of one value per column, made when the function asks for it.

    `sources` tells of every column the name of its value and whether it is a feature (else it is request data). Most functions read
    few of the columns Feast declares for them, twice each; to everybody who looks, all of them are there.
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
        return self[column] if column in self else default  # noqa: SIM401  this is `get`

    def keys(self) -> Any:
        return self.copy().keys()

    def values(self) -> Any:
        return self.copy().values()

    def items(self) -> Any:
        return self.copy().items()

    def copy(self) -> dict[str, list[Any]]:
        for column in self._sources:
            self[column]
        return super().copy()


def locate(repo: Path, source: str) -> tuple[str, str, str]:
    """(file, function, digest) of the function whose source text, decorators included, a Feast registry holds.

    Raises `DefinitionError` when no file of the repo defines it: apply it again from this repo.
    """
    wanted = ast.parse(textwrap.dedent(source)).body[0]
    if not isinstance(wanted, ast.FunctionDef):
        msg = "an on-demand view's transformation is not a plain function"
        raise DefinitionError(msg, todo="define it with def")
    for path in sorted(repo.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef)
                and node.name == wanted.name
                and ast.dump(node) == ast.dump(wanted)
            ):
                file = path.relative_to(repo).as_posix()
                return file, node.name, _digest(_needed(path, node.name), repo)
    msg = f"the on-demand function {wanted.name!r} of the registry is in no file of the repo"
    raise DefinitionError(msg, where=repo, todo="run `feast apply` from this repo again")


def load(repo: Path, view: OnDemand) -> Transform:
    """The function itself. Raises `DefinitionError` when it is gone or its source has changed since the plan was made."""
    path = repo / view.file
    if not path.resolve().is_relative_to(repo.resolve()) or not path.exists():
        msg = f"on-demand view {view.name!r} was planned from a file that is not there"
        raise DefinitionError(msg, where=path, todo="install the repo the model was trained with")
    nodes = _needed(path, view.function)
    if _digest(nodes, repo) != view.digest:
        msg = f"on-demand view {view.name!r} is not the one the plan was made with: its source has changed"
        raise DefinitionError(
            msg, where=path, todo="train a model with the new definition, or install the old one"
        )
    module = ast.Module(
        body=[part for node in nodes for part in _imports_first(_bare(node))], type_ignores=[]
    )
    namespace: dict[str, Any] = {"__name__": f"on_demand.{view.name}"}
    exec(compile(module, str(path), "exec"), namespace)  # noqa: S102 - the repo's own code, held to its digest
    function: Transform = namespace[view.function]
    return function


def _needed(path: Path, function: str) -> list[ast.stmt]:
    """The statements of a file that a function needs, in the file's order: itself last found by name, and what it refers to."""
    body = ast.parse(path.read_text()).body
    defined: dict[str, ast.stmt] = {}
    for node in body:
        for name in _defines(node):
            defined[name] = node
    todo, needed = [function], set()
    while todo:
        found = defined.get(todo.pop())
        if found is None or id(found) in needed or _from_feast(found):
            continue
        needed.add(id(found))
        todo += [n.id for n in ast.walk(_bare(found)) if isinstance(n, ast.Name)]
    if function not in defined:
        msg = f"there is no function {function!r}"
        raise DefinitionError(msg, where=path, todo="install the repo the model was trained with")
    return [node for node in body if id(node) in needed]


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _from_feast(node: ast.stmt) -> bool:
    modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
    modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(m.split(".")[0] == "feast" for m in modules)


def _bare(node: ast.stmt) -> ast.stmt:
    """A function without its decorators (they are Feast's) and annotations; anything else as it is."""
    if not isinstance(node, ast.FunctionDef):
        return node
    copy = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(copy, ast.FunctionDef)
    copy.decorator_list = []
    copy.returns = None
    for argument in [*copy.args.args, *copy.args.kwonlyargs, *copy.args.posonlyargs]:
        argument.annotation = None
    return ast.fix_missing_locations(copy)


def _imports_first(node: ast.stmt) -> list[ast.stmt]:
    """The imports a function begins with, once and before it: at every call they would cost as much as what it computes."""
    if not isinstance(node, ast.FunctionDef):
        return [node]
    n = 0
    while n < len(node.body) - 1 and isinstance(node.body[n], ast.Import | ast.ImportFrom):
        n += 1
    imports, node.body = node.body[:n], node.body[n:]
    return [*imports, node]


def _digest(nodes: list[ast.stmt], repo: Path) -> str:
    """sha256 over the statements, and over the source of the repo's own modules they import, and of those that these import."""
    parts = ["\n".join(ast.dump(_bare(node)) for node in nodes)]
    todo = [file for node in nodes for file in _imported(node, repo)]
    modules: dict[Path, ast.Module] = {}
    while todo:
        file = todo.pop()
        if file not in modules:
            modules[file] = ast.parse(file.read_text())
            todo += [other for node in modules[file].body for other in _imported(node, repo)]
    parts += [ast.dump(module) for _, module in sorted(modules.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _imported(node: ast.stmt, repo: Path) -> list[Path]:
    """Files of the repo that import statements name: `feature_repo.x` itself, or `x` taken from a package of it."""
    found = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and (inner.module or "").split(".")[0] == repo.name:
            module = repo.joinpath(*(inner.module or "").split(".")[1:])
            found += [module.with_suffix(".py"), *(module / f"{alias.name}.py" for alias in inner.names)]
    return [file for file in found if file.is_file()]
