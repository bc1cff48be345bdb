"""Somebody else's payments: a YAML mapping says which of their columns is what; `convert` does it."""

from flows.mapping.convert import Conversion, convert
from flows.mapping.spec import Mapping, load
from flows.mapping.values import Reject

__all__ = ["Conversion", "Mapping", "Reject", "convert", "load"]
