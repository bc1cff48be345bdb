"""A catalogue of a process's metrics: each is defined once, for `/metrics`, the docs and the dashboards.

>>> catalogue = Catalogue()
>>> seen = catalogue.counter("example_seen_total", "Events seen", "partition", deprecated_name="example_read_total")
>>> catalogue["example_read_total"].meaning
'Deprecated, gone after this release: use example_seen_total'
>>> seen.labels("0").inc(2)
>>> REGISTRY.get_sample_value("example_read_total", {"partition": "0"})
2.0
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """One metric: its name as scraped, its kind, what it means, its labels and, of a histogram, its buckets."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Catalogue(dict[str, Metric]):
    """Metrics by name. `deprecated_name` exports the same values under an old name too, for one release."""

    def counter(self, name: str, meaning: str, *labels: str, deprecated_name: str = "") -> Counter:
        """Define a counter; its name ends in `_total`."""
        made = Counter(name.removesuffix("_total"), meaning, labels)
        self._add(Metric(name, "counter", meaning, labels), made, deprecated_name)
        return made

    def gauge(self, name: str, meaning: str, *labels: str, deprecated_name: str = "") -> Gauge:
        """Define a gauge."""
        made = Gauge(name, meaning, labels)
        self._add(Metric(name, "gauge", meaning, labels), made, deprecated_name)
        return made

    def histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...], deprecated_name: str = ""
    ) -> Histogram:
        """Define a histogram with the upper bounds of its buckets, ascending."""
        made = Histogram(name, meaning, labels, buckets=buckets)
        self._add(Metric(name, "histogram", meaning, labels, buckets), made, deprecated_name)
        return made

    def _add(self, metric: Metric, made: MetricWrapperBase, old: str) -> None:
        self[metric.name] = metric
        if old:
            meaning = f"Deprecated, gone after this release: use {metric.name}"
            self[old] = Metric(old, metric.kind, meaning, metric.labels, metric.buckets)
            REGISTRY.register(_OldName(made, old, meaning))


class _OldName(Collector):
    """Export the samples of a metric under another name."""

    def __init__(self, made: MetricWrapperBase, name: str, meaning: str) -> None:
        self._made, self._name, self._meaning = made, name.removesuffix("_total"), meaning

    def collect(self) -> Iterator[Family]:
        for family in self._made.collect():
            renamed = Family(self._name, self._meaning, family.type, family.unit)
            renamed.samples = [
                sample._replace(name=self._name + sample.name.removeprefix(family.name))
                for sample in family.samples
            ]
            yield renamed
