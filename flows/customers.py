"""The flow of versions of customers: `python -m bytewax.run flows.customers`, the same as `"flows.stream:flow('customers')"` (`flows.stream`)."""

from flows.bootstrap import module_flow

flow = module_flow("customers")
