"""The cache folder of compiled kernels follows every source file that a kernel is compiled from."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feature_repo.kernel_cache import ROOT, cache_folder, kernel_sources

SOURCES = dict(kernel_sources(ROOT))
PACKAGES = ("feature_repo", "flows", "serving", "training")
DECORATORS = ("kernel", "njit", "jit")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for package in ("feature_repo", "flows"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_every_module_with_a_kernel_is_a_source() -> None:
    with_kernels = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if kernels(ast.parse(path.read_text()))
    }
    assert len(with_kernels) > 20
    assert with_kernels <= SOURCES.keys()


def test_every_constant_and_kernel_that_a_kernel_imports_is_in_a_source() -> None:
    elsewhere = []
    for path, content in SOURCES.items():
        tree = ast.parse(content)
        used = {
            name.id
            for function in kernels(tree)
            for statement in function.body
            for name in ast.walk(statement)
            if isinstance(name, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                file = (node.module or "").replace(".", "/") + ".py"
                names = used & {alias.asname or alias.name for alias in node.names}
                if names and file not in SOURCES:
                    elsewhere.append((path, file, names))
    assert not elsewhere, "kernels use names of modules that the cache folder does not depend on"


@pytest.mark.parametrize("path", sorted(SOURCES))
def test_an_edit_of_any_source_gives_another_folder(path: str, copied: Path) -> None:
    if not (copied / path).exists():
        pytest.skip("not a module of the copied packages")
    before = cache_folder(copied)
    file = copied / path
    text = file.read_text()
    file.write_text(text + "\n# edited\n")
    edited = cache_folder(copied)
    file.write_text(text)
    assert edited != before
    assert cache_folder(copied) == before


def test_an_edit_of_a_file_without_kernels_keeps_the_folder(copied: Path) -> None:
    before = cache_folder(copied)
    (copied / "flows" / "without.py").write_text("ONE = 1\n")
    assert cache_folder(copied) == before


SCRIPT = """
import numpy as np
from feature_repo.stores.online.script_calls import _frame
empty, one = np.zeros(0, np.uint8), np.ones((1, 1), np.int64)
out = np.zeros(200, np.uint8)
n = _frame(out, empty, empty, 0, empty, empty, np.zeros(2, np.int64), empty, np.zeros(1, np.int64), one, one, one.copy(), 1)
print(out[:n].tobytes())
"""


def test_an_edited_kernel_is_compiled_into_its_callers_of_other_modules(copied: Path, tmp_path: Path) -> None:
    def run() -> str:
        environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
        environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(copied)}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=copied,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    first = run()
    assert r"\r\n" in first
    assert run() == first
    file = copied / "feature_repo" / "stores" / "redis_layout" / "resp_packing.py"
    text = file.read_text()
    assert "= 13, 10" in text
    file.write_text(text.replace("= 13, 10", "= 13, 33"))
    edited = run()
    file.write_text(text)
    assert edited == first.replace(r"\n", "!")


def test_a_folder_given_in_the_environment_is_kept(tmp_path: Path) -> None:
    given = str(tmp_path / "given")
    found = subprocess.run(
        [sys.executable, "-c", "import feature_repo.kernel_cache, numba; print(numba.config.CACHE_DIR)"],
        cwd=ROOT,
        env=os.environ | {"NUMBA_CACHE_DIR": given},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == given


def kernels(tree: ast.Module) -> list[ast.FunctionDef]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(is_kernel(d) for d in node.decorator_list)
    ]


def is_kernel(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in DECORATORS
