"""Memory that one training step frees, kept for the next.

glibc gives large freed pieces back to the system, and a step on a CPU then pays for fresh pages: thousands of page
faults, up to a quarter of a step in bfloat16. Trainings on a CPU ask it to keep them; peak memory stays where it was.
"""

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
KEPT_BYTES = 2**30  # free memory at the end of the heap that is not given back
LARGEST_BYTES = 2**28  # larger pieces are always asked of the system


@cache
def keep_freed_memory() -> bool:
    """Let malloc keep freed memory, from now on and for the whole process; whether it does.

    Nothing happens where malloc is not glibc's, or where the environment has settings for it (``GLIBC_TUNABLES``,
    ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``), which then hold.
    """
    chosen = {"GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
    if chosen & os.environ.keys() or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # no such function, name or value on this system
        return False
