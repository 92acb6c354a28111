"""Locks between processes, for all but those who cannot trust them.

On network file systems file locks may hang, or hold nothing. With EVAR_LOCKS=0 none is taken: then
whoever starts the processes keeps them apart, as Ray tasks and `--part` do. Files are written by
atomic rename, so that two processes at the same file cost time, and never its content.
"""

import os

import filelock


def lock(path) -> filelock.FileLock:
    """Returns the lock of a path; one that anybody can acquire at any time where EVAR_LOCKS=0."""
    return filelock.FileLock(path) if in_use() else _Unlocked(path)


def in_use() -> bool:
    """Returns whether locks are taken at all."""
    return os.environ.get("EVAR_LOCKS", "1") != "0"


class _Unlocked(filelock.SoftFileLock):
    """Touches no file, and is never waited for."""

    def acquire(self, *arguments: object, **options: object) -> filelock.AcquireReturnProxy:
        return filelock.AcquireReturnProxy(self)

    def release(self, force: bool = False) -> None:
        pass
