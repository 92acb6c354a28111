"""Large temporary buffers that the C library keeps instead of fetching each one from the kernel."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_KEPT = 2**28  # bytes: a batch of spectrograms is far below, embeddings of a task are above
_USUAL = 2**25  # glibc's own limit for the threshold that it adapts


@contextlib.contextmanager
def reused_buffers() -> Iterator[None]:
    """Lets glibc reuse freed buffers of up to 256 MB while the block runs; no effect elsewhere.

    Otherwise every buffer above 32 MB, such as the spectra of a batch, is mapped, cleared page by
    page and unmapped by the kernel: a fifth of the time that log-mels take. What is kept goes back
    to the system at the end. Values do not change.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _KEPT)
    library.mallopt(_TRIM_THRESHOLD, 2 * _KEPT)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
