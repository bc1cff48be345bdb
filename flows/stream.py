"""The flow of any declared stream: `python -m bytewax.run "flows.stream:flow('logins')"`.

Reads the bus, Kafka, or the files of `MILLSTREAM_SOURCE_FILES` to their end, checks and admits events, and writes the
event log, the dead letters and the online values of the views over this stream. Settings: `flows.settings`; steps:
`flows.pipeline`.

Recovery is on: started without `-r`, the process starts itself again as the same command with a recovery folder of
its home (`MILLSTREAM_RECOVERY=off` prevents that; how and why: `flows.process.recovery`). Epochs are whole seconds
here; `python -m flows.run logins --epoch-ms 250` takes shorter ones.
"""

from flows.bootstrap import module_flow as flow

__all__ = ["flow"]
