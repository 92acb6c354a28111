"""Reads members of tar shards, as WebDataset writes them, by offset."""

import tarfile
from functools import lru_cache
from pathlib import Path

from evar.data import archives
from evar.data.containers.stream import Damaged
from evar.errors import UserError

_SHARDS = 256  # whose lists of members stay in memory


def members(shard: Path) -> dict[str, tuple[int, int]]:
    """Returns name: (offset, size) in bytes of every file in a tar.

    Raises Damaged for a tar that is damaged, ends too early, or holds links, devices or one name
    twice; OSError where it cannot be read.
    """
    state = shard.stat()
    return _members(shard, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=_SHARDS)
def _members(shard: Path, *stamp: int) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    try:
        for info in archives.tar_infos(shard):
            if info.isdir():
                continue
            if info.name in found:
                raise Damaged(f"{shard.name} holds {info.name!r} twice")
            found[info.name] = (info.offset_data, info.size)
    except (tarfile.TarError, EOFError, ValueError, UserError) as error:
        raise Damaged(f"{shard.name} is damaged or no tar file ({error})") from error
    return found


def read(shard: Path, member: str) -> bytes:
    """Returns the content of one member. Raises what `members` does, or FileNotFoundError."""
    offset, size = members(shard).get(member) or _absent(shard, member)
    with shard.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise Damaged(f"{shard.name} ends within {member!r}")
    return content


def _absent(shard: Path, member: str) -> tuple[int, int]:
    raise FileNotFoundError(2, "no such member", f"{shard}/{member}")
