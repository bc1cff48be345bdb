"""The errors Millstream raises. Each message says what is wrong, where, and what to do about it.

MillstreamError ├── SettingsError            a setting is missing or makes no sense ├── DefinitionError          a
feature view, service or mapping is declared in a way we cannot compute │   └── MappingError         a mapping file is
inconsistent, or does not fit the data file ├── DataError                rows or bytes are not what their schema says │
├── DecodeError          bytes are no event │   ├── SchemaError          a table lacks columns, or has other types, than
it must have │   └── ValidationError      a batch did not pass its expectation suite ├── StoreError               a
store cannot do what is asked │   ├── OnlineStoreError     Redis is unreachable, slow, or refuses a write │   ├──
StateError           the bytes of a window state are not what the view's layout says │   ├── OfflineStoreError    the
offline store cannot answer a query exactly │   ├── LogError             the event log, its staging folder or its
recovery state disagree, or a file of it is damaged │   └── DiskError            a disk is full, read-only or failing
├── FlowError                a dataflow must stop │   ├── RecoveryError        the recovery state is of another flow, or
of other steps │   └── DeadLetterLimit      too many of the latest events became dead letters └── ArtefactError
a model directory is incomplete, altered, or of another schema
"""

from feature_repo.redact import redact

__all__ = [
    "ArtefactError",
    "DataError",
    "DeadLetterLimit",
    "DecodeError",
    "DefinitionError",
    "DiskError",
    "FlowError",
    "LogError",
    "MappingError",
    "MillstreamError",
    "OfflineStoreError",
    "OnlineStoreError",
    "RecoveryError",
    "SchemaError",
    "SettingsError",
    "StateError",
    "StoreError",
    "ValidationError",
]


class MillstreamError(Exception):
    """What went wrong, where, and what to do. The message has all three, without the passwords of addresses.

    >>> str(MillstreamError("no payments found", where="var/log/payments", todo="run the flow first"))
    'no payments found (in var/log/payments). Run the flow first.'
    """

    def __init__(self, what: str, *, where: object = None, todo: str | None = None) -> None:
        """`where` names the place, `todo` is an instruction to the reader."""
        self.what = what
        self.where = where
        self.todo = todo
        message = what.rstrip(".")
        if where is not None:
            message += f" (in {where})"
        if todo:
            message += f". {todo[0].upper()}{todo[1:].rstrip('.')}."
        super().__init__(redact(message))


class SettingsError(MillstreamError):
    """A setting is missing or makes no sense."""


class DefinitionError(MillstreamError):
    """A feature view, service or mapping is declared in a way we cannot compute."""


class MappingError(DefinitionError):
    """A mapping file is inconsistent, or does not fit the data file."""


class DataError(MillstreamError):
    """Rows or bytes are not what their schema says."""


class DecodeError(DataError):
    """Bytes are no event."""


class SchemaError(DataError):
    """A table lacks columns, or has other types, than it must have."""


class ValidationError(DataError):
    """A batch did not pass its expectation suite."""


class StoreError(MillstreamError):
    """A store cannot do what is asked."""


class OnlineStoreError(StoreError):
    """Redis is unreachable, slow, or refuses a write."""


class StateError(StoreError):
    """The bytes of a window state are not what the view's layout says."""


class OfflineStoreError(StoreError):
    """The offline store cannot answer a query exactly."""


class LogError(StoreError):
    """The event log, its staging folder or its recovery state disagree, or a file of it is damaged."""


class DiskError(StoreError):
    """A disk is full, read-only or failing."""


class FlowError(MillstreamError):
    """A dataflow must stop."""


class RecoveryError(FlowError):
    """The recovery state is of another flow, or of other steps."""


class DeadLetterLimit(FlowError):  # noqa: N818  named for the limit an operator sets, as in the settings
    """Too many of the latest events became dead letters."""


class ArtefactError(MillstreamError):
    """A model directory is incomplete, altered, or of another schema."""
