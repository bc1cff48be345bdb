"""Heavy trials with fixed seeds: all of them with `make soak`, a smaller number in the tests.

Each module is one kind of trial. Its docstring says what is tried and what must hold, `TRIALS` is the number in a full
run, and `trial(seed)` runs one. A trial raises (as a rule an `AssertionError`) when the contract is broken and
otherwise returns one line about what it saw. The same seed gives the same trial. `ALONE = True` means that times are
measured, so the trial needs the machine for itself.
"""
