"""The docs say what is there: every setting and metric, files that exist, commands that can be typed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from feature_repo.settings import PROJECT_ROOT, RepoSettings
from flows import metrics as flow_metrics
from flows.settings import FlowSettings
from serving import metrics as scorer_metrics
from serving.settings import ScorerSettings
from training.settings import TrainingConfig

DOCS = [PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCS += sorted((PROJECT_ROOT / "docs").rglob("*.md"))
REFERENCE = PROJECT_ROOT / "docs" / "reference.md"


def relative(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT))


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", REFERENCE.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_equals_its_generated_text(generator: ModuleType) -> None:
    assert REFERENCE.read_text(encoding="utf-8") == generator.page(), "run `make docs` and commit"


def test_every_setting_has_a_description_and_is_in_the_reference(generator: ModuleType) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for model in (RepoSettings, FlowSettings, ScorerSettings):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no description"
            for variable in generator.variables(name, field):
                assert f"`{variable}`" in text


def test_every_variable_in_the_docs_is_a_setting(generator: ModuleType) -> None:
    known = {
        variable
        for model in (RepoSettings, FlowSettings, ScorerSettings)
        for name, field in model.model_fields.items()
        for variable in generator.variables(name, field)
    }
    for path in DOCS:
        named = set(re.findall(r"MILLSTREAM_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
        assert named <= known, f"{relative(path)} names {named - known}"


def test_every_metric_is_in_the_reference_and_no_other() -> None:
    known = set(flow_metrics.CATALOGUE) | set(scorer_metrics.CATALOGUE)
    named = set(re.findall(r"^\| `(millstream_\w+)`", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE))
    assert named == known


def test_every_training_key_the_reference_names_exists() -> None:
    def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from keys(inner, f"{prefix}{name}.")
            else:
                yield prefix + name

    section = REFERENCE.read_text(encoding="utf-8").split("## Training")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([a-z0-9_.]+)`", section, re.MULTILINE) == list(keys(TrainingConfig))


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{relative(path)} links to {target}"


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_tests_the_docs_name_exist(path: Path) -> None:
    for name in re.findall(r"`(tests/[\w/]+\.py)`", path.read_text(encoding="utf-8")):
        assert (PROJECT_ROOT / name).exists(), f"{relative(path)} names {name}"


def shell_lines() -> list[tuple[str, str]]:
    """(document, command) of every line in a shell block."""
    found = []
    for path in DOCS:
        for block in re.findall(
            r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("#")[0].strip()
                if command:
                    found.append((relative(path), command))
    return found


def test_make_commands_in_the_docs_are_targets() -> None:
    made = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", made, re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    named = set(re.findall(r"`(?:\w+=\S+ )*make ([a-z]+)`", text)) | set(
        re.findall(r"^(?:\w+=\S+ )*make ([a-z]+)", text, re.MULTILINE)
    )
    assert named
    assert named <= targets


def test_every_make_target_has_a_description() -> None:
    made = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\.PHONY: (\w+)$", made, re.MULTILINE):
        assert re.search(rf"^{target}:.*##  *\S", made, re.MULTILINE), f"make {target} is not explained"


def test_make_help_names_every_target() -> None:
    made = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    said = subprocess.run(
        ["make", "help"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in re.findall(r"^\.PHONY: (\w+)$", made, re.MULTILINE):
        assert f"make {target} " in said


def modules() -> list[str]:
    named = {module for _, command in shell_lines() for module in re.findall(r"python -m ([\w.]+)", command)}
    return sorted(named - {"bytewax.run"})


@pytest.mark.parametrize("module", modules())
def test_every_module_the_docs_run_explains_itself(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=tmp_path,
        env=os.environ | {"MILLSTREAM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_nothing_committed_names_this_machine_or_a_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    unwanted = re.compile(
        "/work" + "/|/roo" + "t/|py" + r"pi\.org|file" + r"s\.pythonhosted|index" + "-url[ =]h"
    )
    for name in listed.stdout.split():
        path = PROJECT_ROOT / name
        if path.is_file() and path.suffix not in {".parquet", ".png"}:
            found = unwanted.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name} contains {found and found.group()!r}"
