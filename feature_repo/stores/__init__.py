"""Where features live: Feast's online and offline store for windowed views, and the scorer's compiled reader.

`online` and `offline` are named in `feature_store.yaml` and import Feast; `keys`, `specs`, `projection`, `plan`, `on_demand` and
`reader` do not, so that a flow or a scorer starts without it.
"""
