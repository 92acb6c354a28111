"""Embeddings of files that are hashed as they are decoded (`evar.data.unhashed`).

While the fingerprints of a data set are not all known, its embeddings are kept under the marks that
stand for them; then they move to where every other run looks for them.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock

from evar import files, locks
from evar.data import manifests
from evar.data.manifest import Manifest
from evar.embedding.engine import Engine
from evar.embedding.store import Store

_MOVED = "moved.json"  # in a folder whose shards are elsewhere, too
_OWN = ("key.json", _MOVED)  # what does not move


def ready(manifest: Manifest, cache: Path | None, identity: dict) -> Manifest:
    """Returns the manifest to embed by: settled where embeddings of such a data set are kept.

    They may be of the same files in another place, and hashing these takes less time than
    embedding. Errors are those of `Manifest.settled`.
    """
    if manifest.unhashed is None or cache is None or not _is_kept(cache, identity):
        return manifest
    return manifests.settle(manifest)


def _is_kept(cache: Path, identity: dict) -> bool:
    """Returns whether there are embeddings of the same identity but for the manifest.

    Those that an earlier run has begun under marks come first: they are gone on with.
    """
    found = False
    for path in cache.glob("*/key.json"):
        with contextlib.suppress(OSError, ValueError):
            theirs = json.loads(path.read_text())
            if theirs == identity and not (path.parent / _MOVED).exists():
                return False
            found |= theirs != identity and {**theirs, "manifest": identity["manifest"]} == identity
    return found


def settle(engine: Engine) -> None:
    """Moves the embeddings of an engine that has run to where the settled manifest has them.

    Errors are those of `Manifest.settled`.
    """
    if engine.manifest.unhashed is None:
        return
    count = engine.runtime.progress.counter("hash what is left", "file")
    settled = engine.manifest.settled(count)
    engine.store = _moved(engine.store, settled.sha256)
    manifests.keep(engine.manifest, settled)  # last: until then, a run that was killed goes on
    engine.manifest = settled


def _moved(store: Store, manifest: str) -> Store:
    """Returns the store of the same identity but for the manifest, with all that is in `store`."""
    new = Store(store.folder.parent, {**store.identity, "manifest": manifest})
    for path in sorted(store.folder.iterdir()):
        passing = path.name in _OWN or path.name.startswith((".", "files-"))
        if path.suffix in (".safetensors", ".json") and not passing:
            _link(path, new.folder / path.name)
    files.write_atomic(store.folder / _MOVED, json.dumps({"to": new.key}) + "\n")
    return new


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except FileExistsError:  # by a process that ran at the same time
        pass
    except OSError:  # a disk without links
        files.write_atomic(new, old.read_bytes())


@contextlib.contextmanager
def in_use(store: Store, manifest: Manifest) -> Iterator[None]:
    """Keeps a folder of embeddings under marks while it is in use by any process.

    The last process to leave removes it, once the embeddings have moved.
    """
    if manifest.unhashed is None or not locks.in_use():
        yield
        return
    files.make_folder(store.folder)  # another may just have removed it
    with locks.lock(store.folder / f"user-{uuid.uuid4().hex}.lock"):
        yield
    if (store.folder / _MOVED).exists() and not _has_users(store.folder):
        shutil.rmtree(store.folder, ignore_errors=True)


def _has_users(folder: Path) -> bool:
    for path in folder.glob("user-*.lock"):
        try:
            with locks.lock(path).acquire(blocking=False):
                pass
        except filelock.Timeout:
            return True
    return False
