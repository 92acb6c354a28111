"""Clips in tar shards in WebDataset's layout, with an index for random access.

OUT/shard-000000.tar holds members KEY.flac (mono) or KEY.npy (float16 log-mel (F, T));
shard-000000.json, written when its tar is complete, holds offset, size and CRC-32 of each member;
shards.json, written last, lists all shards.
"""

import functools
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evar import files
from evar.errors import UserError

VERSION = 3
KINDS = ("flac", "logmel")
_HEAD = "shards.json"


def write_shard(path: Path, members: Iterable[tuple[str, str, bytes]], plan: str, **more) -> None:
    """Writes one shard and its index atomically.

    members: (file name, original file, content). plan: identifies what the shard should hold. more:
    goes into the index.
    """
    entries: list[list] = []
    names: list[str] = []
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with files.writing(path):
        try:
            with temporary.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
                    for name, original, content in members:
                        info = tarfile.TarInfo(
                            name
                        )  # default owner, time and mode: equal bytes on every machine
                        info.size = len(content)
                        start = tar.offset + tarfile.BLOCKSIZE
                        tar.addfile(info, io.BytesIO(content))
                        entries.append([start, len(content), zlib.crc32(content)])
                        names.append(original)
                file.flush()
                os.fsync(file.fileno())
            path.with_suffix(".json").unlink(missing_ok=True)  # of the previous tar
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    index = {"plan": plan, "entries": entries, "files": names, "bytes": path.stat().st_size}
    files.write_atomic(path.with_suffix(".json"), json.dumps(index | more) + "\n")


def index_of(path: Path) -> dict | None:
    """Returns the index of a complete shard; None for any other."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        whole = path.stat().st_size == index["bytes"]
        return index if whole and len(index["entries"]) == len(index["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_head(folder: Path) -> None:
    """Removes the list of shards, so that the folder is no valid set until `write_head`."""
    (Path(folder) / _HEAD).unlink(missing_ok=True)


def write_head(folder: Path, kind: str, names: list[str], **settings) -> None:
    """Writes the list of the shards of a set and their kind."""
    content = {"version": VERSION, "kind": kind, "shards": names, **settings}
    files.write_atomic(Path(folder) / _HEAD, json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True, eq=False)
class ShardSet:
    """All clips of a folder of shards, numbered from 0.

    kind: "flac" or "logmel". files: the original file of each clip. identity: a hash of the shards'
    content. A tar is opened only to read a clip of it; memory does not grow with what is read.
    """

    folder: Path
    kind: str
    sample_rate: int
    files: list[str]
    identity: str
    _shards: list[Path]
    _shard: np.ndarray  # (N,) which shard
    _places: np.ndarray  # (N, 3) first byte, bytes, CRC-32

    @classmethod
    def open(cls, folder) -> "ShardSet":
        """Reads the indices.

        Raises UserError for shards that are missing, cut short or of another version.
        """
        folder = Path(folder)
        remedy = "run `python -m pretrain.prepare` again to resume it"
        try:
            head = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
            known = head["version"] == VERSION and head["kind"] in KINDS
            names, rate = [str(n) for n in head["shards"]], int(head["sample_rate"])
        except FileNotFoundError as error:
            raise UserError(f"{folder}: no shards there ({_HEAD} is missing); {remedy}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / _HEAD}: not readable ({error!r}); {remedy}") from error
        if not known:
            raise UserError(f"{folder / _HEAD}: written by another version of pretrain.prepare")
        shards: list = []
        originals: list = []
        numbers: list[int] = []
        places: list = []
        digest = hashlib.sha256(head["kind"].encode())
        for name in names:
            path = folder / name
            index = index_of(path)
            if index is None:
                raise UserError(f"{path}: missing or cut short; {remedy}")
            numbers += [len(shards)] * len(index["entries"])
            places += index["entries"]
            originals += index["files"]
            shards.append(path)
            digest.update(json.dumps([index["plan"], index["entries"], index["files"]]).encode())
        if not originals:
            raise UserError(f"{folder}: its shards hold no clip")
        return cls(
            folder,
            head["kind"],
            rate,
            originals,
            digest.hexdigest()[:16],
            shards,
            np.array(numbers, np.int32),
            np.array(places, np.int64).reshape(len(places), 3),
        )

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> np.ndarray:
        """Returns a clip: waveform (S,) float32 or log-mel (F, T) float16. Raises UserError."""
        path = self._shards[self._shard[number]]
        start, size, checksum = self._places[number].tolist()
        try:
            with path.open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, start)
            if zlib.crc32(content) != checksum:
                raise ValueError("checksum mismatch")
            return _decoded(content, self.kind)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: {self.files[number]} in it is not readable ({error}). Remove this shard "
                "and run `python -m pretrain.prepare` again to write it again"
            ) from error


@functools.lru_cache(maxsize=256)
def _npy(header: bytes) -> tuple[tuple[int, ...], int]:
    """Returns shape and first byte of the float16 array after an .npy header.

    Cached: few headers differ, and parsing one takes longer than reading its array. Raises
    ValueError for other arrays.
    """
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not an .npy file of version 1.0")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    if fortran or kind != np.float16:
        raise ValueError("not a float16 array in C order")
    return shape, len(header)


def _decoded(content: bytes, kind: str) -> np.ndarray:
    if kind == "logmel":
        shape, start = _npy(content[: 10 + int.from_bytes(content[8:10], "little")])
        return np.frombuffer(content, np.float16, offset=start).reshape(shape)
    import soundfile

    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    return samples
