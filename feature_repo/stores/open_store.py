"""Opening the feature repo for another home than the default one.

`cd feature_repo && feast apply` uses `feature_store.yaml`, whose registry is in the project's `var/`. A demo or a test
has its own home: it gets a copy of the file with its own registry, for `feast -f <file> apply`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml
from feast import FeatureStore
from feast.repo_config import load_repo_config

from feature_repo.settings import PROJECT_ROOT, RepoSettings

REPO: Final = PROJECT_ROOT / "feature_repo"


def config_file(settings: RepoSettings, repo: Path = REPO, name: str = "feature_store.yaml") -> Path:
    """Return the file `name` for this home: the repo's own for the default home, else a copy written into the home."""
    own = repo / name
    if settings.home == RepoSettings.model_fields["home"].default:
        return own
    config = yaml.safe_load(own.read_text())
    config["registry"] = str(settings.registry)
    config["online_store"]["home"] = str(settings.home)
    settings.home.mkdir(parents=True, exist_ok=True)
    copy = settings.home / name
    text = yaml.safe_dump(config, sort_keys=False)
    if not copy.exists() or copy.read_text() != text:
        copy.write_text(text)
    return copy


def open_store(settings: RepoSettings, repo: Path = REPO) -> FeatureStore:
    """Return the Feast store of this home; `feast apply` must have been run for it."""
    config = load_repo_config(repo, config_file(settings, repo))
    return FeatureStore(repo_path=str(repo), config=config)
