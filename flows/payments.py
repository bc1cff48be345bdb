"""The flow of payments: `python -m bytewax.run flows.payments`, the same as `"flows.stream:flow('payments')"` (`flows.stream`)."""

from flows.bootstrap import module_flow

flow = module_flow("payments")
