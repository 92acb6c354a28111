"""Peak memory of a process of its own."""

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
# Not resource.getrusage: its peak begins with that of the process that started this one.
_PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
"""


def said(code: str, *arguments) -> list[str]:
    """Returns the words that a program prints; it may call peak(), in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
