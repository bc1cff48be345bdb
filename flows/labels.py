"""The flow of labels: `python -m bytewax.run flows.labels`, the same as `flows.stream:flow('labels')`."""

from flows.bootstrap import module_flow

flow = module_flow("labels")
