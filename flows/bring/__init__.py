"""Somebody else's payments: a YAML mapping says which of their columns is what; `convert` does it."""

from flows.bring.convert import Conversion, convert
from flows.bring.mapping import Mapping, load
from flows.bring.values import Reject

__all__ = ["Conversion", "Mapping", "Reject", "convert", "load"]
