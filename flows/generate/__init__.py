"""Generator of a seeded world of payments, frauds and labels, for demos, benchmarks and tests.

>>> history = generate(7, days=2, accounts=50, merchants=20, payments=1_000)
>>> {*history.payments["currency"].unique().to_pylist()}
{'EUR'}
"""

from flows.generate.history import History, epoch_us, generate, live, split_labels
from flows.generate.world import Events, World, payments_a_day

__all__ = ["Events", "History", "World", "epoch_us", "generate", "live", "payments_a_day", "split_labels"]
