"""Names on the Hugging Face hub, pinned: all that is read of a name is of one commit."""

import logging
import re
from pathlib import Path

from evar.errors import UserError

_log = logging.getLogger(__name__)
_COMMIT = re.compile("[0-9a-f]{40}")
_SECONDS = 10.0  # to wait for the hub before the local cache has to say


def pinned(source: str | Path, revision: str | None = None) -> str:
    """Returns "ORG/NAME@COMMIT" of a name on the hub; a folder or file on the disk as it is.

    source: a path, ORG/NAME, or ORG/NAME@REVISION. revision: a branch, a tag or a commit; default:
    main. The hub says which commit a branch or a tag is, without network access the local cache.
    Where neither knows, the name stays as it is. Raises UserError for a revision of a local folder.
    """
    text = str(source)
    if Path(text).exists():
        if revision is not None:
            raise UserError(f"{text}: is on the disk: leave --revision={revision} out")
        return text
    name, of_name = split(text)
    revision = str(revision or of_name or "main")
    commit = revision if _COMMIT.fullmatch(revision) else _resolved(name, revision)
    if commit is None:
        return name if revision == "main" else f"{name}@{revision}"
    return f"{name}@{commit}"


def split(source: str | Path) -> tuple[str, str | None]:
    """Returns the name and the revision of "ORG/NAME@REVISION"; a path on the disk has none."""
    text = str(source)
    if Path(text).exists():
        return text, None
    name, _, revision = text.partition("@")
    return name, revision or None


def commit_of(source: str | Path) -> str | None:
    """Returns the commit of a pinned source; None of others."""
    _, revision = split(source)
    return revision if revision and _COMMIT.fullmatch(revision) else None


def _resolved(name: str, revision: str) -> str | None:
    """Returns the commit of a branch or tag, by the hub or else by the local cache."""
    from huggingface_hub import HfApi, constants

    if not constants.HF_HUB_OFFLINE:
        try:
            return HfApi().model_info(name, revision=revision, timeout=_SECONDS).sha
        except Exception as error:  # no network, no such name: of whichever HTTP library it uses
            _log.debug("%s@%s: %s", name, revision, error)
    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    try:
        found = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return found if _COMMIT.fullmatch(found) else None
