"""Heavy trials with fixed seeds, in full under `make soak`; the tests run the same ones in a smaller number.

A module here is one kind of trial: its docstring says what is tried and what must hold, `TRIALS` is how many make a full run, and
`trial(seed)` is one of them. It raises (an `AssertionError`, as a rule) where the contract is broken, returns a line of what it saw,
and does the same for the same seed. `ALONE = True` says that it speaks of times, and wants the machine for itself.
"""
