"""The flow of merchants: `python -m bytewax.run flows.merchants`, the same as `flows.stream:flow('merchants')`."""

from flows.bootstrap import module_flow

flow = module_flow("merchants")
