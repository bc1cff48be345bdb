"""The flow of workload W1 as one process of several: `python -m bytewax.run bench.w1_module:flow -r ... -i 0 -a ...`.

Like `bench.w1_flow` it warms up, says `ready` and waits for a line, which is what a benchmark needs.
"""

from bench import w1_flow, w1_stream
from flows.bootstrap import module_flow

w1_flow.get_ready()
flow = module_flow(w1_stream.NAME)
