"""The whole loop on one machine: `python -m flows.demo` runs it once, `python -m flows.up` keeps it running.

The parts are the ones a user starts by hand (`feast apply`, `bytewax.run`, `training.train`, `uvicorn`); here they are
only started, watched and stopped, each with a log file in `<home>/logs`.
"""
