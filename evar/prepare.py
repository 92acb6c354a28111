"""Getting a data set onto the disk and finding it there."""

from pathlib import Path

from evar import archives, clips, download, split_files
from evar.errors import UserError
from evar.task import Source, Task


def locate(task: Task, source) -> Path | None:
    """The root of a task's data in a folder that may hold many data sets; None if not there.

    Looks below the folder's own name for the task and the names it usually goes by.
    """
    source = Path(source)
    for pattern in (task.name, *task.folders):
        for candidate in sorted(source.glob(pattern)):
            if candidate.is_dir():
                try:
                    return clips.find_root(candidate, task.marker)
                except UserError:
                    continue
    return None


def fetch_tables(task: Task, root: Path, progress=None) -> None:
    """Fetch the split lists and tables that the data set's own archives do not hold."""
    for source in task.sources:
        if source.kind == "table" and source.url and not (root / source.path).exists():
            download.fetch(source, root, progress=progress)


def fetch_all(task: Task, folder: Path, progress=None) -> None:
    """Download and unpack all that is openly served.

    Raises UserError with what a person has to do where something is not.
    """
    packed = [s for s in task.sources if s.kind == "archive" and s.url]
    for source in [s for s in task.sources if s.url and s.kind != "archive"] + packed:
        download.fetch(source, folder, progress=progress)
    for source in packed:
        path = folder / source.path
        if _part_of_split_zip(path):
            continue
        if path.with_suffix(".z01").exists():
            path = split_files.join_split_zip(folder, path.stem)
        archives.extract(path, folder)
    todo = [s for s in task.sources if s.how and not (s.kind == "archive" and s.url)]
    if todo and not _complete(task, folder):
        what = "\n".join(f"  {s.path}: {_checksum(s)}{s.how}." for s in todo)
        raise UserError(
            f"{task.name}: not everything can be downloaded. By hand, into {folder}:\n{what}\n"
            f"Then run `python prepare.py {task.name}`."
        )


def _part_of_split_zip(path: Path) -> bool:
    return path.suffix[:2] == ".z" and path.suffix[2:].isdigit()


def _checksum(source: Source) -> str:
    for kind in ("sha256", "md5"):
        if value := getattr(source, kind):
            return f"{kind} {value}. "
    return ""


def _complete(task: Task, folder: Path) -> bool:
    try:
        root = clips.find_root(folder, task.marker)
        found = clips.check_table(task, task.read(root))
    except (UserError, OSError):
        return False
    return all((root / name).exists() for name in found.file[:100]) and len(found) > 0
