"""The flow of payments: `python -m bytewax.run flows.payments`, the same as `flows.stream:flow('payments')`."""

from flows.bootstrap import module_flow

flow = module_flow("payments")
