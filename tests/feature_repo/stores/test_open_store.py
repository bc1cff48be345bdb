"""One registry per home, wherever the process was started."""

from pathlib import Path

import pytest

from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.stores.open_store import REPO, config_file, open_store


@pytest.mark.parametrize("folder", [PROJECT_ROOT, REPO, Path("/")])
def test_default_home_has_the_registry_of_feature_store_yaml(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MILLSTREAM_HOME", raising=False)
    monkeypatch.chdir(folder)
    settings = RepoSettings()
    assert config_file(settings) == REPO / "feature_store.yaml"
    store = open_store(settings)
    registry = Path(store.repo_path) / store.config.registry.path
    assert registry.resolve() == settings.registry


def test_another_home_has_a_registry_of_its_own(home: Path) -> None:
    settings = RepoSettings()
    store = open_store(settings)
    assert Path(store.config.registry.path) == settings.registry == home / "registry.db"
    assert store.config.online_store.home == str(home)
