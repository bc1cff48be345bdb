"""The flow of card charges: `python -m bytewax.run flows.charges`, the same as `flows.stream:flow('charges')`."""

from flows.bootstrap import module_flow

flow = module_flow("charges")
