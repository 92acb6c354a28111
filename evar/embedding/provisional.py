"""Embeddings of files that are hashed as they are decoded (`evar.data.unhashed`).

Until the fingerprints of a data set are all known, its embeddings are kept under a provisional key,
of placeholders. Then they move to the key that every other run looks for.
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
from evar.embedding.store import Store, key_of

_MOVED = "moved.json"  # in a folder whose shards are elsewhere, too
_OWN = ("key.json", _MOVED)  # what does not move


def manifest_for(manifest: Manifest, cache: Path | None, identity: dict) -> Manifest:
    """Returns the manifest to embed by, with all fingerprints where embeddings may be kept.

    Those in the cache that differ in nothing but the manifest may be of the same files in another
    place, and hashing these takes less time than embedding. Embeddings that an earlier run has
    left under the provisional key move first. Errors are those of `Manifest.hashed`.
    """
    if cache is None:
        return manifest
    if manifest.unhashed is not None and _are_kept(cache, identity):
        manifest = manifests.hash_all(manifest)
    if manifest.provisional:
        old = {**identity, "manifest": manifest.provisional}
        if (cache / key_of(old) / "key.json").exists():
            store = Store(cache, old)
            _moved(store, manifest.sha256)
            _remove_unused(store.folder)
    return manifest


def _are_kept(cache: Path, identity: dict) -> bool:
    """Returns whether there are embeddings of the same identity but for the manifest.

    None are needed where an earlier run has begun under this one.
    """
    found = False
    for path in cache.glob("*/key.json"):
        with contextlib.suppress(OSError, ValueError):
            theirs = json.loads(path.read_text())
            if theirs == identity and not (path.parent / _MOVED).exists():
                return False
            found |= theirs != identity and {**theirs, "manifest": identity["manifest"]} == identity
    return found


def finish(engine: Engine) -> None:
    """Moves the embeddings of an engine that has run from their provisional key to the last one.

    Errors are those of `Manifest.hashed`.
    """
    if engine.manifest.unhashed is None:
        return
    count = engine.runtime.progress.counter("hash what is left", "file")
    hashed = engine.manifest.hashed(count)
    engine.store = _moved(engine.store, hashed.sha256)
    manifests.save_hashed(engine.manifest, hashed)  # last: until then a run that was killed goes on
    engine.manifest = hashed


def _moved(store: Store, manifest: str) -> Store:
    """Returns the store of the same identity but for the manifest, with all that is in `store`."""
    new = Store(store.folder.parent, {**store.identity, "manifest": manifest})
    for path in sorted(store.folder.iterdir()):
        stays = path.name in _OWN or path.name.startswith((".", "files-"))
        if path.suffix in (".safetensors", ".json") and not stays:
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
    """Keeps the folder of a provisional key while any process uses it.

    The last process to leave removes it, once the embeddings have moved.
    """
    if manifest.unhashed is None or not locks.in_use():
        yield
        return
    files.make_folder(store.folder)  # another may just have removed it
    own = locks.lock(store.folder / f"user-{uuid.uuid4().hex}.lock")
    with files.writing(store.folder):
        own.acquire()
    try:
        yield
    finally:
        own.release()
    if (store.folder / _MOVED).exists():
        _remove_unused(store.folder)


def _remove_unused(folder: Path) -> None:
    """Removes a folder whose embeddings have moved, unless a process still uses it."""
    if not locks.in_use():  # who does is not known
        return
    for path in folder.glob("user-*.lock"):
        try:
            with locks.lock(path).acquire(blocking=False):
                pass
        except filelock.Timeout:
            return
    shutil.rmtree(folder, ignore_errors=True)
