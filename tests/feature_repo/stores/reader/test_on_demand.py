"""The scorer imports on-demand functions from the repo without Feast, and only those the plan was made with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from feature_repo.errors import DefinitionError
from feature_repo.stores.open_store import REPO
from feature_repo.stores.reader.on_demand import _EARLIER, OnDemand, load, locate

HALF = '''"""Half of the amount."""

from feature_repo.shared import half


def half_amount(inputs):
    """Return it."""
    return {"half_amount": [half(a) for a in inputs["amount"]]}
'''
VIEW = """from feast.on_demand_feature_view import on_demand_feature_view


@on_demand_feature_view(sources=[], schema=[], mode="python")
def half_amount(inputs):
    return {"half_amount": inputs["amount"]}
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = tmp_path / "repo"
    (repo / "on_demand" / "functions").mkdir(parents=True)
    (repo / "on_demand" / "functions" / "half_amount.py").write_text(
        HALF.replace("feature_repo.shared", "operator")
    )
    return repo


def planned(repo: Path) -> OnDemand:
    path = next(iter(repo.rglob("half_amount.py")))
    source = path.read_text()
    file, digest = locate(repo, "half_amount", source[source.index("def ") :])
    return OnDemand(
        "half_amount", file, "half_amount", digest, (("amount", ""),), (("half_amount", "float64"),)
    )


def with_shared(repo: Path, shared: str) -> OnDemand:
    (repo / "on_demand" / "functions" / "half_amount.py").write_text(HALF)
    (repo / "shared.py").write_text(shared)
    return planned(repo)


def test_the_function_is_found_by_its_name_and_loaded(repo: Path) -> None:
    file = repo / "on_demand" / "functions" / "half_amount.py"
    file.write_text(file.read_text().replace("from operator import half", "from operator import neg as half"))
    view = planned(repo)
    assert view.file == "on_demand/functions/half_amount.py"
    assert load(repo, view)({"amount": [2, 4]}) == {"half_amount": [-2, -4]}


def test_a_changed_function_or_module_it_imports_is_refused(repo: Path) -> None:
    view = with_shared(repo, "def half(a):\n    return a / 2\n")
    for changed in (repo / "shared.py", repo / view.file):
        text = changed.read_text()
        changed.write_text(text + "\nMORE = 1\n")
        with pytest.raises(DefinitionError, match="'half_amount' is not the one the plan was made with"):
            load(repo, view)
        changed.write_text(text)


def test_comments_docstrings_and_formatting_are_no_change(repo: Path) -> None:
    view = with_shared(repo, "def half(a):\n    return a / 2\n")
    (repo / "shared.py").write_text(
        '"""Shared."""\n\n\ndef half(a):\n    """Half."""\n    return (a / 2)  # half\n'
    )
    assert planned(repo).digest == view.digest


def test_a_view_declared_in_the_file_of_its_function_gets_an_error_that_says_what_to_do(repo: Path) -> None:
    (repo / "on_demand" / "functions" / "half_amount.py").unlink()
    (repo / "on_demand" / "half_amount.py").write_text(VIEW)
    source = VIEW[VIEW.index("@") :]
    with pytest.raises(DefinitionError, match=r"imports Feast.*Move the function to a file of its own"):
        locate(repo, "half_amount", source)
    (repo / "on_demand" / "half_amount.py").rename(repo / "on_demand" / "views.py")
    with pytest.raises(
        DefinitionError, match=r"no file half_amount\.py .*run `feast apply` again; else move"
    ):
        locate(repo, "half_amount", source)


def test_a_file_outside_the_repo_or_missing_is_refused(repo: Path) -> None:
    view = planned(repo)
    shutil.copy(repo / view.file, repo.parent / "half_amount.py")
    for file in ("../half_amount.py", "on_demand/another.py"):
        with pytest.raises(DefinitionError, match="'half_amount' is missing"):
            load(repo, replace(view, file=file))


def test_plans_made_before_functions_had_files_of_their_own_still_load() -> None:
    files = sorted((REPO / "on_demand").glob("*.py"))
    assert len(files) == len(_EARLIER)
    current = {digest: name for name, digest in (digest_of(file.stem) for file in files)}
    for earlier, today in _EARLIER.items():
        name = current[today]
        view = OnDemand(name, f"on_demand/{name}.py", name, earlier, (), ())
        assert load(REPO, view).__name__ == name


def digest_of(name: str) -> tuple[str, str]:
    source = (REPO / "on_demand" / "functions" / f"{name}.py").read_text()
    return name, locate(REPO, name, source[source.index("def ") :])[1]


def test_no_file_of_a_function_imports_feast() -> None:
    names = [path.relative_to(REPO.parent).with_suffix("") for path in REPO.glob("*/functions/*.py")]
    assert len(names) > 8
    modules = ", ".join(str(name).replace("/", ".") for name in names)
    script = (
        f"import sys, {modules}; assert not [name for name in sys.modules if name.split('.')[0] == 'feast']"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPO.parent, check=True)
