"""`python -m flows.demo.apply`: run `feast apply` with the registry of this home.

The same as `cd feature_repo && feast apply`, but with the registry in MILLSTREAM_HOME.
"""

from __future__ import annotations

import os
import sys

from feast.cli.cli import cli

from feature_repo.settings import RepoSettings
from feature_repo.stores.open_store import REPO, config_file


def main() -> None:
    """Run Feast's command line with this home's configuration file."""
    config = config_file(RepoSettings())
    os.chdir(REPO)
    sys.argv = ["feast", "-f", str(config), "apply"]
    cli()


if __name__ == "__main__":
    main()
