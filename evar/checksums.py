"""Is a file the one that was published?"""

import hashlib
from pathlib import Path

from evar.errors import UserError

_CHUNK = 2**20


def verify(path, source) -> None:
    """Compare a file with the size and hashes of its record (a task's Source, a model's Weights).

    Raises UserError that names the file and what differs. Nothing is compared that the record
    does not have.
    """
    path = Path(path)
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        raise UserError(_differs(path, "size", f"{size:,} bytes", f"{source.bytes:,}"))
    wanted = {
        kind: value
        for kind in ("sha256", "md5", "git_sha1")
        if (value := getattr(source, kind, None)) is not None
    }
    hashes = {kind: hashlib.new(kind.removeprefix("git_")) for kind in wanted}
    if "git_sha1" in hashes:
        hashes["git_sha1"].update(f"blob {size}\0".encode())  # as git names a file's content
    with path.open("rb") as file:
        while hashes and (chunk := file.read(_CHUNK)):
            for digest in hashes.values():
                digest.update(chunk)
    for kind, digest in hashes.items():
        if digest.hexdigest() != wanted[kind]:
            raise UserError(_differs(path, kind, digest.hexdigest(), wanted[kind]))


def _differs(path: Path, what: str, found: str, expected: str) -> str:
    return (
        f"{path}: its {what} is {found}, expected {expected}: not the published file, or damaged. "
        "Remove it and get it again."
    )
