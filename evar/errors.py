"""Errors that a user can mend."""

import traceback
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input; its text names the file, the reason and the remedy.

    Command lines print the text alone, without a stack trace, and leave with exit code 2.
    """


class BadAudio(UserError):
    """One clip that cannot be used; `path` names it and `reason` says why."""

    def __init__(self, path, reason: str):
        self.path, self.reason = str(path), reason
        super().__init__(
            f"{path}: {reason}. Mend or replace the file, or leave bad clips out with --skip_bad "
            "(their number then stands beside the score)."
        )


@contextmanager
def blaming(what: str):
    """Turn whatever goes wrong in somebody's own code into a UserError that names the place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {described(error)}") from error


def described(error: Exception) -> str:
    """An exception's kind and text, and the last line outside the installed libraries it passed."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if "site-packages" not in frame.filename:
            place = f" ({frame.filename}:{frame.lineno})"
    text = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {text}{place}"


def unknown(kind: str, name: str, known) -> UserError:
    """A one-line error for a name that does not exist, with the closest ones that do."""
    from difflib import get_close_matches

    known = list(known)
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    everything = f"known: {', '.join(known)}"
    hint = f"did you mean {' or '.join(close)}?" if close else everything
    if close and len(known) <= 6:  # few enough to say more than a guess
        hint += f" ({everything})"
    return UserError(f"unknown {kind} {name!r}; {hint}")
