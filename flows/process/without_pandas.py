"""Keep pyarrow from importing pandas, which the flows never use."""

from __future__ import annotations

import sys
from typing import Any


class _NoPandas:
    """Import hook that hides pandas."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def without_pandas() -> None:
    """Let pyarrow look for pandas while pandas is hidden; call it first in a process.

    pyarrow looks for pandas once, when it makes its first array of a list, to recognise pandas objects. The import
    costs 1.5 s of CPU. Later calls that need pandas (`to_pandas`) still import it.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    finder: Any = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
