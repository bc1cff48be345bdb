"""Erase accounts from a home and its server: `python -m flows.erase`."""
