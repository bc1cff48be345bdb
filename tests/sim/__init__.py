"""A model of everything around a flow, so that thousands of crashes a minute can be tried.

It has an engine, a bus, an online store, a disk and a clock. The flow itself is the real one: `flows.pipeline.build`
wires the real steps, sources and sinks, and only what they stand on is replaced. Nothing here looks at a clock, opens a
socket or starts a thread or a process; every choice comes from one `random.Random`, so a seed brings a run back.

    graph    what a pipeline is made of, recorded instead of run
    engine   Bytewax's workers, epochs, snapshots and recovery, in any order they may happen
    bus      Redis streams with the server's counters
    store    the Redis server behind the online store: hashes, and the compare-and-set script
    disk     real files, with a crash possible at every operation on them
    world    puts these in the place of the real ones for the time of a trial
    traffic  payments to publish, and what must become of each
"""
