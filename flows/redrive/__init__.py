"""Publish repaired dead letters to their source again: `python -m flows.redrive`."""
