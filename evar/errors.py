"""Errors that a user can mend."""


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


def unknown(kind: str, name: str, known) -> UserError:
    """A one-line error for a name that does not exist, with the closest ones that do."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
