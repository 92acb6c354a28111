"""Fetches published files and checks them against their record.

A record is an `evar.task.Source` or an `evar.models.Weights`: any object with `url`, `bytes`,
`sha256`, `md5`, `how`, a `path` or `file`, and perhaps `git_sha1`. Where a record has no checksum,
size and SHA-256 of what was fetched are noted in `.NAME.taken.json`, and compared the next time.
"""

import hashlib
import json
import os
import re
import shutil
import time
import urllib.request as web
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import filelock

from evar.data.archives import safe_parts
from evar.data.containers.kinds import describe
from evar.errors import UserError
from evar.files import canonical_json, make_folder, write_atomic, writing

CHUNK = 2**20  # bytes moved at a time
ATTEMPTS = 3
WAIT = 2.0  # seconds before the second attempt; twice that before the third
MAX_BYTES = 2**38  # of one file whose record does not say
WEB_PAGES = ("text/html", "application/xhtml+xml")
TIMEOUT = 60  # seconds of silence after which a connection counts as dropped


def instructions(source, folder) -> str:
    """Returns one line: what to get, from where and how, where to put it, its checksum."""
    return _instructions(source, _target(source, folder))


def verify(path, source) -> None:
    """Compares a file with the size and the checksums that its record names.

    Raises UserError where the file is missing or differs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. {_instructions(source, path)}")
    if differs := _difference(path, source):
        raise UserError(
            f"{path}: {differs}. Delete or move the file, then get it again. "
            f"{_instructions(source, path)}"
        )


def fetch(source, folder, *, progress=None) -> Path:
    """Downloads one file to its place below `folder`, verified; returns that path.

    A file that is there already is verified and kept. A broken download is resumed, by the next
    attempt or the next call. `progress(total=, initial=)` makes a bar with `update(bytes)` and
    `close()`; without it tqdm shows one on terminals.

    Raises UserError where the record has no http(s) address, the server refuses or keeps dropping
    the connection, what came is not the recorded file, or the folder is not writable.
    """
    target = _target(source, folder)
    if target.exists():
        _verify_taken(target, source)
        return target
    if not source.url:
        raise UserError(
            f"{target}: no open address to fetch it from. {instructions(source, folder)}"
        )
    if urlsplit(source.url).scheme.lower() not in ("http", "https"):
        raise UserError(
            f"{source.url}: only http and https addresses are fetched; correct the record"
        )
    make_folder(target.parent)
    with writing(target.parent), filelock.FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists():  # another process has fetched it meanwhile
            _verify_taken(target, source)
        else:
            _fetch(source, target, folder, progress)
    return target


def has_checksum(source) -> bool:
    """Tells whether a record names a checksum: without one, what is served cannot be verified."""
    return bool(_checksums(source))


def _fetch(source, target: Path, folder, progress) -> None:
    part, note = _part(target)
    resumed = _persist(source, target, progress)
    differs = _difference(part, source)
    if differs and resumed:  # the beginning may be of an older version
        _discard(target)
        _persist(source, target, progress)
        differs = _difference(part, source)
    with part.open("rb") as file:
        kind = describe(file.read(4096))
    if differs:
        _discard(target)
        came = f"; it is {kind}" if "HTML" in kind else ""
        raise UserError(
            f"{source.url}: what came is not the recorded file ({differs}{came}); it was deleted. "
            f"Try again, or by hand: {instructions(source, folder)}"
        )
    if not has_checksum(source):
        _take(part, source, target, kind)
    part.replace(target)
    note.unlink(missing_ok=True)


def _taken(target: Path) -> Path:
    return target.with_name(f".{target.name}.taken.json")


def _seen(path: Path) -> dict:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _take(part: Path, source, target: Path, kind: str) -> None:
    """Notes what was fetched without a checksum; UserError where it is no such file, or changed."""
    html = "HTML" in kind and target.suffix.lower() not in (".html", ".htm")
    if html or not part.stat().st_size:
        _discard(target)
        raise UserError(
            f"{source.url}: what came is {kind}, not {target.name}; it was deleted. By hand: "
            f"{_instructions(source, target)}"
        )
    found, known = _seen(part), _known(target)
    if known and known != found:
        _discard(target)
        raise UserError(
            f"{source.url}: what came ({found['bytes']:,} bytes) is not what was fetched the last "
            f"time ({known['bytes']:,} bytes): its publisher has changed it. Delete "
            f"{_taken(target)} to accept the new version."
        )
    write_atomic(_taken(target), canonical_json(found))


def _known(target: Path) -> dict:
    """Returns size and SHA-256 of what was fetched the last time; empty where that is not known."""
    try:
        known = json.loads(_taken(target).read_text())
        return {"bytes": int(known["bytes"]), "sha256": str(known["sha256"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _verify_taken(target: Path, source) -> None:
    """Verify a file by its record, or by the note that was made when it was fetched."""
    verify(target, source)
    known = {} if has_checksum(source) else _known(target)
    if known and known != _seen(target):
        raise UserError(
            f"{target}: it has changed since it was fetched. Delete it and fetch it again, or "
            f"delete {_taken(target)} to accept it as it is."
        )


def _target(source, folder) -> Path:
    """Returns where a record's file belongs; UserError where that is not below the folder."""
    name = getattr(source, "path", None) or source.file
    return Path(folder).joinpath(*safe_parts(name, "the record"))


def _instructions(source, target: Path) -> str:
    expected = [f"{source.bytes} bytes"] if source.bytes is not None else []
    expected += [f"{kind} {value}" for kind, value in _checksums(source).items()]
    text = f"Get {target.name}" + (f" from {source.url}" if source.url else "")
    text += f" and put it at {target} ({', '.join(expected) or 'no checksum is on record'})."
    return " ".join(f"{text} {source.how}".split())


def _checksums(source) -> dict[str, str]:
    kinds = ("sha256", "md5", "git_sha1")
    return {kind: value.lower() for kind in kinds if (value := getattr(source, kind, None))}


def _difference(path: Path, source) -> str:
    """Says how a file differs from its record; empty where it does not."""
    size, wanted = path.stat().st_size, _checksums(source)
    if source.bytes is not None and size != source.bytes:
        return f"it has {size} bytes instead of {source.bytes}"
    hashes = {
        kind: hashlib.new(kind.removeprefix("git_"), usedforsecurity=False) for kind in wanted
    }
    if "git_sha1" in hashes:
        hashes["git_sha1"].update(b"blob %d\0" % size)
    with path.open("rb") as file:
        while hashes and (chunk := file.read(CHUNK)):
            for each in hashes.values():
                each.update(chunk)
    found = {kind: each.hexdigest() for kind, each in hashes.items()}
    wrong = [kind for kind in wanted if found[kind] != wanted[kind]]
    return ", ".join(f"its {kind} is {found[kind]} instead of {wanted[kind]}" for kind in wrong)


def _part(target: Path) -> tuple[Path, Path]:
    """Returns the unfinished file, and the note on which version of the file it is a part of."""
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def _discard(target: Path) -> None:
    for path in _part(target):
        path.unlink(missing_ok=True)


def _persist(source, target: Path, progress) -> bool:
    """Downloads into the part file, in several attempts; UserError when all have failed.

    Returns whether an earlier part was continued.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(source, target, progress)
        except HTTPError as error:
            error.close()
            problem = f"the server answers {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                remedy = "By hand: "
                break
        except (HTTPException, OSError) as error:
            problem = f"no success in {ATTEMPTS} attempts ({error or type(error).__name__})"
        remedy = "The same command continues where this one ended. By hand: "
        if attempt < ATTEMPTS:
            time.sleep(WAIT * attempt)
    raise UserError(f"{source.url}: {problem}. {remedy}{_instructions(source, target)}")


def _transfer(source, target: Path, progress) -> bool:
    """Makes one attempt; returns whether it continued an earlier one.

    Raises HTTPException or OSError where the connection drops.
    """
    part, note = _part(target)
    known = _read_note(part, note, source)
    start = part.stat().st_size if known else 0  # bytes
    if start and start == known["length"]:
        return True
    try:
        response = _open(source.url, start, known)
    except HTTPError as error:
        if not (start and error.code == 416):  # 416: the file has become shorter than our part
            raise
        error.close()
        _discard(target)
        return _transfer(source, target, progress)
    with closing(response):
        if response.status not in (200, 206) or (response.status == 206 and not start):
            raise UserError(
                f"{source.url}: the server answers {response.status} without the file. By hand: "
                f"{_instructions(source, target)}"
            )
        if start and response.status == 206:
            if not _continues(response, start, known):
                _discard(target)
                return _transfer(source, target, progress)
            length = known["length"]
        else:
            start, length = 0, _number(response.headers.get("Content-Length"))
            _begin(response, length, source, target)
        _receive(response, start, length, source, part, progress)
    return start > 0


def _begin(response, length, source, target: Path) -> None:
    """Notes what is about to come; UserError where it cannot be the recorded file."""
    _discard(target)
    if None not in (length, source.bytes) and length != source.bytes:
        raise UserError(
            f"{source.url}: the server offers {length} bytes, the recorded file has {source.bytes}."
            f" By hand: {_instructions(source, target)}"
        )
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in WEB_PAGES and not has_checksum(source) and target.suffix not in (".html", ".htm"):
        raise UserError(
            f"{source.url}: the server offers a web page ({kind}) in place of {target.name}, such "
            f"as a login or error page. By hand: {_instructions(source, target)}"
        )
    if length is not None:
        _require_room(length, source, target)
    headers = response.headers
    note = {"url": source.url, "etag": headers.get("ETag"), "length": length}
    note["modified"] = headers.get("Last-Modified")
    write_atomic(_part(target)[1], canonical_json(note))


def _require_room(length: int, source, target: Path) -> None:
    """Raises UserError for a file larger than the room on the disk, or than any data set."""
    free = shutil.disk_usage(target.parent).free
    if length > MAX_BYTES:
        raise UserError(f"{source.url}: the server offers {length:,} bytes, more than any data set")
    if length > free:
        raise UserError(
            f"{source.url}: {length:,} bytes, and {free:,} are free in {target.parent}. Free some "
            "space or choose another folder (--data)."
        )


def _receive(response, received: int, length, source, part: Path, progress) -> None:
    """Appends what comes to the part file; ConnectionError where it ends early."""
    progress = progress or _bar(part.name.removesuffix(".part"))
    with closing(progress(total=length or source.bytes, initial=received)) as bar:
        with writing(part):
            file = part.open("ab")
        with file:
            while chunk := response.read(CHUNK):
                with writing(part):
                    file.write(chunk)
                    file.flush()
                bar.update(len(chunk))
                received += len(chunk)
                if source.bytes is not None and received > source.bytes:
                    return  # never the recorded file; without a length it might never end
                if received > MAX_BYTES:
                    raise UserError(f"{source.url}: sends more than {MAX_BYTES:,} bytes; stopped")
            with writing(part):
                os.fsync(file.fileno())
    if length is not None and received < length:
        raise ConnectionError(f"connection closed after {received} of {length} bytes")


def _bar(name: str):
    from functools import partial

    from tqdm import tqdm

    return partial(tqdm, desc=name, unit="B", unit_scale=True, disable=None)  # None: terminals only


def _read_note(part: Path, note: Path, source) -> dict:
    """Returns what is known of an unfinished download; empty where it must start again.

    Without a checksum in its record, a part is continued only where the server can tell whether
    the file is still the same one.
    """
    try:
        known = json.loads(note.read_text())
        usable = part.is_file() and known["url"] == source.url
        usable &= bool(known["etag"] or known["length"])
        if not has_checksum(source):
            usable &= _validator(known) is not None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return known if usable else {}


def _validator(known: dict) -> str | None:
    """Returns what If-Range asks for: a strong ETag, or the time of the last change."""
    etag = known["etag"]
    return etag if etag and not etag.startswith("W/") else known.get("modified")


class _Redirects(web.HTTPRedirectHandler):
    """Follows redirections, but never from https to http, where anybody could change the file."""

    def redirect_request(self, request, *arguments):
        url = arguments[-1]
        if request.type == "https" and urlsplit(url).scheme.lower() != "https":
            raise UserError(
                f"{request.full_url}: redirects to {url}, without encryption. Get the file by hand."
            )
        return super().redirect_request(request, *arguments)


def _open(url: str, start: int, known: dict):
    """Asks for a file from byte `start` on. Raises HTTPError, HTTPException or OSError."""
    opener = web.OpenerDirector()  # build_opener would also follow redirections to ftp
    for handler in (
        *(web.ProxyHandler, web.HTTPHandler, web.HTTPSHandler, web.UnknownHandler),
        *(_Redirects, web.HTTPDefaultErrorHandler, web.HTTPErrorProcessor),
    ):
        opener.add_handler(handler())
    headers = {"User-Agent": "evar", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator := _validator(known):
            headers["If-Range"] = validator
    return opener.open(web.Request(url, headers=headers), timeout=TIMEOUT)


def _continues(response, start: int, known: dict) -> bool:
    """Returns whether a partial answer is the rest of the very file that was begun."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    same = response.headers.get("ETag", known["etag"]) == known["etag"]
    return bool(found and same and int(found[1]) == start and _number(found[2]) == known["length"])


def _number(text) -> int | None:
    return int(text) if text and text.isdigit() else None
