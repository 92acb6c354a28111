"""Errors that a user can correct."""

import traceback
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input; its text names the file, the reason and the remedy.

    Command lines print the text alone, without a stack trace, and leave with exit code 2.
    """


class BadAudio(UserError):
    """A clip that cannot be used; `path` names it and `reason` says why."""

    def __init__(self, path, reason: str):
        self.path, self.reason = str(path), reason
        super().__init__(
            f"{path}: {reason}. Replace the file, or leave bad clips out with --skip_bad (their "
            "number is then shown with the score)."
        )


@contextmanager
def blaming(what: str):
    """Re-raises exceptions from third-party code as a UserError with file and line."""
    try:
        yield
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"{what}: it called sys.exit({error.code!r})") from error
    except Exception as error:
        raise UserError(f"{what}: {described(error)}") from error


def described(error: BaseException) -> str:
    """Returns an exception's type, text and last line outside of installed libraries."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if "site-packages" not in frame.filename:
            place = f" ({frame.filename}:{frame.lineno})"
    text = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {text}{place}"


_SHOWN = 60  # names in one message


def unknown(kind: str, name: str, known) -> UserError:
    """Returns a one-line error for a name that does not exist, with the closest that do."""
    from difflib import get_close_matches

    known = list(known)
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    more = f" and {len(known) - _SHOWN:,} more" if len(known) > _SHOWN else ""
    everything = f"known: {', '.join(known[:_SHOWN])}{more}"
    hint = f"did you mean {' or '.join(close)}?" if close else everything
    if close and len(known) <= 6:  # few enough to say more than a guess
        hint += f" ({everything})"
    return UserError(f"unknown {kind} {name!r}; {hint}")
