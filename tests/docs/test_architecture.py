"""`docs/architecture.md` names files, functions and classes that exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from feature_repo.settings import PROJECT_ROOT

TEXT = (PROJECT_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", TEXT)
PATHS = sorted({c for c in CODE if re.fullmatch(r"[\w./-]+/[\w./-]*|[\w-]+\.(py|md|svg|toml)", c)})
NAMES = sorted({c for c in CODE if re.fullmatch(r"[\w./-]+\.py:[A-Za-z_][\w.]*", c)} - {"path/file.py:name"})
MOST_LINES = 170


@functools.cache
def defined(path: Path) -> frozenset[str]:
    """The functions, classes, methods and constants of a file, as `name` and `Class.name`."""
    names: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return frozenset(names)


def test_the_page_names_files_and_functions() -> None:
    assert len(PATHS) >= 40
    assert len(NAMES) >= 30


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path: str) -> None:
    assert (PROJECT_ROOT / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_defined_in_its_file(name: str) -> None:
    file, _, inside = name.partition(":")
    assert inside in defined(PROJECT_ROOT / file)


def test_every_link_leads_to_a_file() -> None:
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in t]
    assert [t for t in targets if t and not (PROJECT_ROOT / "docs" / t).exists()] == []


def test_a_module_named_by_its_dots_exists() -> None:
    """`flows.payments`, `training.train`: what a command imports."""
    roots = ("feature_repo", "flows", "serving", "training", "bench", "tests")
    for dotted in re.findall(rf"\b(?:{'|'.join(roots)})(?:\.\w+)+(?![\w/])", " ".join(CODE)):
        folder = PROJECT_ROOT / dotted.replace(".", "/")
        assert folder.with_suffix(".py").exists() or folder.is_dir(), dotted


def test_the_table_of_changes_has_at_least_25_rows() -> None:
    _, _, section = TEXT.partition("\n## To change")
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    assert len(rows) - 2 >= 25  # without the table's head
    for row in rows[2:]:
        assert re.search(r"`[\w./-]+/[\w./-]*`", row), f"no file in: {row}"


def test_the_page_stays_short() -> None:
    assert TEXT.count("\n") <= MOST_LINES
