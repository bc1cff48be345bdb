"""The flow of customers: `python -m bytewax.run flows.customers`, the same as `flows.stream:flow('customers')`."""

from flows.bootstrap import module_flow

flow = module_flow("customers")
