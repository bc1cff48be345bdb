"""The flow of versions of customers: `python -m bytewax.run flows.customers`.

Reads the bus, or the files of `MILLSTREAM_SOURCE_FILES` to their end, checks and admits events, and writes the event
log, the dead letters and the online values of the plain feature views over this log. Settings: `flows.settings`; the
steps: `flows.pipeline`.

Recovery is on: started without `-r`, the process begins again as the same command with a recovery folder of its home
(`MILLSTREAM_RECOVERY=off` prevents that; how and why: `flows.process.recovery`). Epochs are whole seconds here;
`python -m flows.run customers --epoch-ms 250` takes less.
"""

from flows.bootstrap import module_flow

flow = module_flow("customers")
