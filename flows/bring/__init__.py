"""Import of foreign files: a YAML mapping says where each column of a stream comes from; `convert` does it."""

from flows.bring.convert import Conversion, convert
from flows.bring.mapping import Mapping, load
from flows.bring.values import Reject

__all__ = ["Conversion", "Mapping", "Reject", "convert", "load"]
