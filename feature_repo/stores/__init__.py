"""Where features are stored: Feast's online and offline store for windowed views, and the scorer's compiled reader.

`online` and `offline` are named in `feature_store.yaml`; only their `feast_store` modules import Feast. Everything
else works without it, so that flows and scorers start quickly.
"""
