"""Gets data sets onto the disk and finds them there."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from urllib.parse import urlsplit

from evar.data import archives, clip_table, download, indexing, split_files
from evar.errors import UserError
from evar.task import Source, Task


def locate(task: Task, source) -> Path | None:
    """Returns the root of a task's data in a folder that may hold many data sets, or None.

    Looks below the folder's own name for the task and the names it usually goes by.
    """
    source = Path(source)
    for pattern in (task.name, *task.folders):
        for candidate in sorted(source.glob(pattern)):
            if candidate.is_dir():
                try:
                    return indexing.find_root(candidate, task.marker)
                except UserError:
                    continue
    return None


def unverified(task: Task) -> list[str]:
    """Returns the files that are downloaded though their publisher names no checksum."""
    return [s.path for s in task.sources if s.url and not download.has_checksum(s)]


def fetch_tables(task: Task, root: Path, progress=None) -> None:
    """Fetches the split lists and tables that the data set's own archives do not hold."""
    for source in task.sources:
        if source.kind == "table" and source.url and not (root / source.path).exists():
            download.fetch(source, root, progress=progress)


def fetch_all(task: Task, folder: Path, progress=None) -> None:
    """Downloads and unpacks all that is openly served, and what a person has put there.

    Raises UserError with what a person has to do where something is not.
    """
    packed = [
        s for s in task.sources if s.kind == "archive" and (s.url or (folder / s.path).is_file())
    ]
    for source in [s for s in task.sources if s.url and s.kind != "archive"] + packed:
        download.fetch(source, folder, progress=progress)
    for source in packed:
        if not _later_part(source.path):
            archives.extract(_whole(task, folder / source.path), folder)
    problem = "".join(_fetch_listed(s, folder) for s in task.sources if s.kind == "list")
    todo = [s for s in task.sources if s.how and not (s.kind == "archive" and s.url)]
    if todo and not _complete(task, folder):
        what = "\n".join(f"  {s.path}: {_checksum(s)}{s.how}." for s in todo)
        raise UserError(
            f"{task.name}: not everything can be downloaded. {problem}By hand, into {folder}:\n"
            f"{what}\nThen run `python prepare.py {task.name}`."
        )


def _later_part(name: str) -> bool:
    return bool(re.search(r"\.z\d+$|_part(?!aa)[a-z]{2}$", name))


def _whole(task: Task, path: Path) -> Path:
    """Returns the archive that begins with this file, joined from its parts if it has several."""
    if path.with_suffix(".z01").exists():
        return split_files.join_split_zip(path.parent, path.stem)
    name = path.name.removesuffix("_partaa")
    if name == path.name:
        return path
    parts = [path.parent / s.path for s in task.sources if s.path.startswith(f"{name}_part")]
    split_files.join_parts(parts, path.with_name(f"{name}.zip"))
    return path.with_name(f"{name}.zip")


HOPELESS = 20  # so many failures before the first success: the server does not give these files


def _fetch_listed(source: Source, folder: Path) -> str:
    """Fetches what a list names, four files at a time; says how many could not be had."""
    from tqdm import tqdm

    place = folder / source.into
    files = [_listed(line) for line in (folder / source.path).read_text().splitlines() if line]
    here = failed = 0

    def get(file: Source) -> str:
        if failed >= HOPELESS and not here:
            return "not tried"
        packed = file.path.endswith((".tgz", ".tar.gz", ".zip"))
        try:
            if not (packed and archives.is_extracted(file.path, place)):
                path = download.fetch(file, place, progress=_silent)
                if packed:
                    archives.extract(path, place)
                    path.unlink()
        except UserError as error:
            return str(error)
        return ""

    first = ""
    with ThreadPoolExecutor(4) as pool:
        for problem in tqdm(pool.map(get, files), total=len(files), disable=None, unit="file"):
            here, failed = here + (not problem), failed + bool(problem)
            first = first or problem
    return f"{failed:,} of {len(files):,} files could not be had, the first: {first} " * bool(
        failed
    )


def _listed(line: str) -> Source:
    """Parses a line such as "host/name.tgz" or "https://host/name.wav 12345 SHA256"."""
    url, *check = line.split()
    url = url if "://" in url else f"http://{url}"
    return Source(
        path=PurePosixPath(urlsplit(url).path).name,
        url=url,
        bytes=int(check[0]) if check else None,
        sha256=check[1] if len(check) > 1 else None,
    )


def _silent(**_):
    return SimpleNamespace(update=lambda size: None, close=lambda: None)


def _checksum(source: Source) -> str:
    for kind in ("sha256", "md5"):
        if value := getattr(source, kind):
            return f"{kind} {value}. "
    return ""


def _complete(task: Task, folder: Path) -> bool:
    try:
        root = indexing.find_root(folder, task.marker)
        found = clip_table.check_table(task, task.read(root))
    except (UserError, OSError):
        return False
    return all((root / name).exists() for name in found.file[:100]) and len(found) > 0
