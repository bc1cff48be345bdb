"""Live payments, with what comes beside them: published to the bus, then scored, in real time; `python -m flows.traffic`.

What a client of the whole system sees is measured here, outside of all its parts: how long a score takes, and how long
after it was sent to the bus a payment can be read in the online store.
"""
