"""Ends a command's process as soon as its work is done, without taking every module apart.

With PyTorch loaded the interpreter needs about 0.4 s of CPU time to free what the system frees at
once. Everything that must happen at the end still does: threads are joined and functions that are
registered with `atexit` (by Ray, TensorBoard, multiprocessing) are called before.
"""

import atexit
import os
import sys

_code: list[int] = []  # the exit code of the command, once it is known


def arrange() -> None:
    """Lets this process leave at once when it ends, if `leave_with` has been called by then.

    To be called before anything else registers a function with `atexit`: the first one that is
    registered is the last one that is called. A process that is being traced or measured
    (debuggers, coverage) ends as usual.
    """
    if not any(name in sys.modules for name in ("coverage", "pydevd")):
        atexit.register(_leave)


def leave_with(code: int) -> None:
    """Says with which exit code the process is about to end."""
    _code[:] = [code]


def _leave() -> None:
    watched = sys.gettrace() is not None or sys.getprofile() is not None
    if not _code or watched or hasattr(sys, "last_value"):  # a later exception has its own code
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # the interpreter reports this, and sets the exit code
        return
    os._exit(_code[0])
