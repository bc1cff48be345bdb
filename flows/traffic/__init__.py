"""Live payments and the events that belong to them, scored and published in real time: `python -m flows.traffic`.

It measures what a client of the whole system sees: the latency of a score, and the time from the moment a payment is
published on the bus until it can be read in the online store.
"""
