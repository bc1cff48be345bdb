"""The decorator of compiled kernels, and the folder that numba caches them in.

A cached kernel contains the code of the kernels it calls and the constants it uses, but numba only looks at the
kernel's own file to decide whether the cache is stale. So the folder is named after a digest of all files that kernels
are compiled from: the modules that use this decorator or numba, and all of `feature_repo.windows`, whose other modules
hold the kernels' constants.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import numba

ROOT: Final = Path(__file__).resolve().parent.parent
"""The folder that the packages are installed in."""
_PACKAGES: Final = ("feature_repo", "flows", "serving", "training")
_USES_KERNELS: Final = (b"kernel_cache", b"numba")


F = TypeVar("F", bound=Callable[..., Any])


@overload
def kernel(function: F, /) -> F: ...
@overload
def kernel(*, signature: object = None, inline: str = "never") -> Callable[[F], F]: ...
def kernel(function: Any = None, /, *, signature: Any = None, inline: Any = "never") -> Any:
    """Compile the decorated function with `numba.njit`, and cache the machine code on disk.

    Used as `@kernel` or with options: `signature` is a numba signature to compile at import, `inline` as in
    `numba.njit`.
    """
    return numba.njit(signature if function is None else function, cache=True, inline=inline)


def kernel_sources(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path relative to `root`, content) of all files that kernels are compiled from, in sorted order."""
    windows = os.path.join("feature_repo", "windows", "")  # noqa: PTH118  Path costs more than reading the files
    for package in _PACKAGES:
        for folder, folders, files in os.walk(root / package):
            folders.sort()
            for name in sorted(files):
                if not name.endswith(".py"):
                    continue
                path = os.path.join(folder, name)  # noqa: PTH118
                relative = os.path.relpath(path, root)
                with open(path, "rb") as file:  # noqa: PTH123
                    content = file.read()
                if relative.startswith(windows) or any(word in content for word in _USES_KERNELS):
                    yield relative, content


def cache_folder(root: Path = ROOT) -> Path:
    """Return the folder for kernels compiled from the sources under `root`; the same sources give the same folder."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path, content in kernel_sources(root):
        digest.update(f"\0{path}\0{len(content)}\0".encode())
        digest.update(content)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "millstream" / f"kernels-{digest.hexdigest()[:16]}"


def _copy_shipped(folder: Path) -> None:
    """Fill a new cache folder with the kernels a container image was built with (`COMPILED_KERNELS_DIR`).

    They are copied because numba skips a cache folder that it cannot write to, and an image is read-only.
    """
    shipped = Path(os.environ.get("COMPILED_KERNELS_DIR", "")) / folder.name
    if folder.exists() or not shipped.is_dir():
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    # Errors: a process started at the same time was first, or the disk is full. Then kernels are compiled.
    with contextlib.suppress(OSError):
        shutil.copytree(shipped, aside, copy_function=shutil.copyfile)
        aside.replace(folder)
    shutil.rmtree(aside, ignore_errors=True)


if "NUMBA_CACHE_DIR" not in os.environ:
    numba.config.CACHE_DIR = str(cache_folder())  # type: ignore[attr-defined]  # filled in at import
    _copy_shipped(Path(numba.config.CACHE_DIR))  # type: ignore[attr-defined]
