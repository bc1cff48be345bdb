"""The meaning of a windowed aggregation: one spec, one state, one fold, one read. Pure: no I/O, no clock.

* `functions`  what may be computed over a window
* `spec`       what a view computes: a `ViewSpec` made from a Feast `StreamFeatureView`
* `layout`     where things stand in a row of its state
* `columns`    events as flat arrays: times, ordered ids, hashed keys, values
* `exact_sum`  sums that do not depend on the order of their terms
* `header`     what stands at the head of a state's bytes
* `state`      the events or tiles kept per key, as flat arrays and as bytes
* `rows`       the sorted rows of a key: find, insert, drop
* `fold`       kernels that put events into a state
* `read`       finishing a state at a time `t`, with the kernels of `read_events`, `read_tiles` and `sketch`
* `read_views` the states of all views of a request, finished in one call
* `sketch`     quantiles from counts in logarithmic buckets
* `decay`      the weight of a value that fades with its age
* `read_then_fold` both, event by event: what an event's own past says about it
* `history`    the same answers from a history of events, for many times at once: `asked` and `order` sort, `history_view` answers for a
               view, by windows that slide (`running`, `sliding`, `sliding_sketch`) or, where acceptance hides events, walk (`history_walk`)
* `numbering`  small whole numbers for hashed keys and values

Compiled kernels are cached on disk (numba). A cached kernel contains the code it calls, but numba looks only at the file the
kernel stands in when it decides whether the cache is stale. So the cache folder is named after a digest of all kernel sources.
"""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import numba

_HERE = Path(__file__).parent


def _cache_dir() -> str:
    sources = hashlib.sha256()
    for path in sorted(_HERE.rglob("*.py")):
        sources.update(path.read_bytes())
    sources.update(numba.__version__.encode())
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return str(root / "millstream" / f"kernels-{sources.hexdigest()[:16]}")


def _copy_shipped(folder: Path) -> None:
    """Fill a new cache folder with the kernels a container image was built with (`COMPILED_KERNELS_DIR`).

    They are copied because numba skips a cache folder that it cannot write to, and an image is read-only.
    """
    shipped = Path(os.environ.get("COMPILED_KERNELS_DIR", "")) / folder.name
    if folder.exists() or not shipped.is_dir():
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    with contextlib.suppress(
        OSError
    ):  # a process started at the same time was first, or the disk is full: compile
        shutil.copytree(shipped, aside, copy_function=shutil.copyfile)
        aside.replace(folder)
    shutil.rmtree(aside, ignore_errors=True)


if "NUMBA_CACHE_DIR" not in os.environ:
    numba.config.CACHE_DIR = _cache_dir()  # type: ignore[attr-defined]  # filled in at import
    _copy_shipped(Path(numba.config.CACHE_DIR))  # type: ignore[attr-defined]
