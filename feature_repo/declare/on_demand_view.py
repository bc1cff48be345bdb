"""On-demand views of functions that have a file of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from feast import Field, OnDemandFeatureView


def on_demand_view(
    function: Callable[[dict[str, list[Any]]], dict[str, list[Any]]],
    *,
    sources: list[Any],
    schema: list[Field],
    description: str = "",
) -> OnDemandFeatureView:
    """Return the view that `function` computes from lists of its inputs (mode python).

    Feast runs a function from the source text in its registry. Here this is the whole file, so that the file may
    import what the function needs. The file imports no Feast, because the scorer imports it.
    """
    return OnDemandFeatureView(
        name=function.__name__,
        sources=sources,
        schema=schema,
        mode="python",
        description=description,
        udf=function,
        udf_string=Path(function.__code__.co_filename).read_text(),
    )
