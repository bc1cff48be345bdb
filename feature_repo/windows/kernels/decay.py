"""The weight of a value in a decayed sum.

It halves with each quarter of the window, so a value that leaves it weighs a sixteenth.
"""

import math
from typing import Final

import numpy as np

from feature_repo.kernel_cache import kernel

_LN2: Final = math.log(2)
_TERMS = np.array([1.0 / math.factorial(k) for k in range(13, -1, -1)])


@kernel
def weight(age: int, window: int) -> float:
    """Return 2^(-age / (window / 4)), within two units in the last place; age and window in the same unit.

    Computed by the Taylor series of e^x on |x| <= ln(2) / 2 instead of the C library's `exp2`, because stored sums
    need the same bits on every machine and in every compilation.
    """
    x = 4.0 * age / window
    whole = np.floor(x + 0.5)
    rest = (whole - x) * _LN2
    power = 0.0
    for i in range(len(_TERMS)):
        power = power * rest + _TERMS[i]
    return math.ldexp(power, -int(whole))
