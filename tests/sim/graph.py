"""A pipeline as a list of nodes: stands where `bytewax.operators` does while `flows.pipeline.build` runs.

It knows the operators our pipelines use; another one is an `AttributeError`, and then belongs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

INPUT: Final = "input"
LOCAL: Final = "local"
"""A step without state: items stay on their worker."""
STATEFUL: Final = "stateful"
OUTPUT: Final = "output"


@dataclass
class Node:
    """One step: `work` is a function of a list of items, a builder of parts, a source or a sink."""

    kind: str
    name: str
    ups: tuple[int, ...]
    work: Any
    downs: list[int] = field(default_factory=list)


class Graph(list[Node]):
    """The nodes of a flow, each after those it reads from."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


Up = tuple[Graph, int]


def _add(kind: str, name: str, ups: Iterable[Up], work: Any, graph: Graph | None = None) -> Up:
    known = list(ups)
    graph = known[0][0] if graph is None else graph
    at = len(graph)
    for _, up in known:
        graph[up].downs.append(at)
    graph.append(Node(kind, name, tuple(up for _, up in known), work))
    return graph, at


class Operators:
    """The operators, by their names in `bytewax.operators`."""

    @staticmethod
    def input(name: str, flow: Graph, source: Any) -> Up:
        return _add(INPUT, name, (), source, flow)

    @staticmethod
    def output(name: str, up: Up, sink: Any) -> None:
        _add(OUTPUT, name, (up,), sink)

    @staticmethod
    def stateful_batch(name: str, up: Up, builder: Callable[[Any], Any]) -> Up:
        return _add(STATEFUL, name, (up,), builder)

    @staticmethod
    def flat_map_batch(name: str, up: Up, mapper: Callable[[list[Any]], Iterable[Any]]) -> Up:
        return _add(LOCAL, name, (up,), mapper)

    @staticmethod
    def flat_map(name: str, up: Up, mapper: Callable[[Any], Iterable[Any]]) -> Up:
        return _add(LOCAL, name, (up,), lambda items: [made for item in items for made in mapper(item)])

    @staticmethod
    def flat_map_value(name: str, up: Up, mapper: Callable[[Any], Iterable[Any]]) -> Up:
        return _add(
            LOCAL, name, (up,), lambda items: [(k, made) for k, value in items for made in mapper(value)]
        )

    @staticmethod
    def map_value(name: str, up: Up, mapper: Callable[[Any], Any]) -> Up:
        return _add(LOCAL, name, (up,), lambda items: [(k, mapper(value)) for k, value in items])

    @staticmethod
    def key_on(name: str, up: Up, key: Callable[[Any], str]) -> Up:
        return _add(LOCAL, name, (up,), lambda items: [(key(item), item) for item in items])

    @staticmethod
    def key_rm(name: str, up: Up) -> Up:
        return _add(LOCAL, name, (up,), lambda items: [value for _, value in items])

    @staticmethod
    def merge(name: str, *ups: Up) -> Up:
        return _add(LOCAL, name, ups, lambda items: items)
