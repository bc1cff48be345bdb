"""Kernels of an open-addressing table from a key's 128-bit hash to its slot.

`table`, int32 [a power of two], holds slots, -1 for a free place; `hashes`, int64 [slots, 2], holds the hash of every
slot.
"""

from feature_repo.kernel_cache import kernel
from feature_repo.windows.arrays import Bytes, Ints


@kernel
def rehash(table: Ints, hashes: Ints, n: int) -> None:
    """Enter the first `n` keys into an empty table."""
    mask = len(table) - 1
    for slot in range(n):
        at = hashes[slot, 1] & mask
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = slot


@kernel
def find_slots(table: Ints, hashes: Ints, known: int, wanted: Ints, slots: Ints, fresh: Ints) -> int:
    """Write the slot of every wanted key to `slots`; new keys get the slots from `known` on.

    The rows of new keys are written to `fresh`, in the order of their slots. Returns their number.
    """
    mask = len(table) - 1
    n_fresh = 0
    for i in range(len(wanted)):
        at = wanted[i, 1] & mask
        while True:
            slot = table[at]
            if slot < 0:
                slot = known + n_fresh
                table[at] = slot
                hashes[slot, 0], hashes[slot, 1] = wanted[i, 0], wanted[i, 1]
                fresh[n_fresh] = i
                n_fresh += 1
                break
            if hashes[slot, 0] == wanted[i, 0] and hashes[slot, 1] == wanted[i, 1]:
                break
            at = (at + 1) & mask
        slots[i] = slot
    return n_fresh


@kernel
def append_names(offsets: Ints, data: Bytes, known: int, new_offsets: Ints, new: Bytes, rows: Ints) -> None:
    """Append the bytes of the keys at `rows` to those of the `known` keys."""
    at = offsets[known]
    for i in range(len(rows)):
        for k in range(new_offsets[rows[i]], new_offsets[rows[i] + 1]):
            data[at] = new[k]
            at += 1
        offsets[known + i + 1] = at
