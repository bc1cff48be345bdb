"""Flows without pandas, which they never use."""

from __future__ import annotations

import sys
from typing import Any


class _NoPandas:
    """Says that there is none."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def without_pandas() -> None:
    """Keep pyarrow from importing pandas, 1.5 s of CPU, the first time it makes an array of a list.

    For a process of our own, before its other imports: pyarrow looks for pandas once, to recognise what is pandas', and finds none
    here. Whoever asks for pandas afterwards (`to_pandas`) gets it.
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
