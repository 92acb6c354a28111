"""Command lines: the root scripts and the console command `evar`. Imports nothing heavy."""

import codecs
import contextlib
import errno
import importlib
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import evar
from evar import leaving, protocol
from evar.errors import UserError, described, unknown

_FOLDER = Path(__file__).parent / "commands"
_NO_COMMANDS = ("__init__", "evaluate")  # evaluate: what the commands of all protocols share
_SPELLED = {"list_registered": "list"}  # a file that would shadow a built-in name
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: list[str] | None = None) -> None:
    """Runs the console command `evar COMMAND ...`."""
    if arguments is None:
        leaving.arrange()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        with _one_line_for_errors():
            print("usage: evar COMMAND ... (`evar COMMAND --help` explains one)\n")
            for name in commands():
                summary, _, _ = (inspect.getdoc(_function(name)) or "").partition("\n")
                print(f"  {name:<12} {summary}")
        return
    if arguments[0] == "--version":
        with _one_line_for_errors():
            print(evar.__version__)
        return
    run(arguments[0], arguments[1:])


def commands() -> list[str]:
    """Returns the names of all commands: one per protocol, and the files in evar/commands/."""
    own = [path.stem for path in _FOLDER.glob("*.py") if path.stem not in _NO_COMMANDS]
    of_protocols = [p.command or p.name for p in protocol.usable()]
    return [*of_protocols, *sorted({_SPELLED.get(n, n) for n in own} - set(of_protocols))]


def run(name: str, arguments: list[str] | None = None) -> None:
    """Runs one command; exits with code 2 and one line for what a user can correct.

    arguments: None takes those of the process, which is then the command's own.
    """
    # Torch's threads wait for one another in loops, some milliseconds each time before they sleep:
    # where other processes need the cores, that made a probe nine times slower. With this they
    # wait some microseconds; on a quiet machine it makes no difference.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if arguments is None:
        leaving.arrange()
    try:
        function = _function(name)
    except UserError as error:
        _exit(error)
    call(name, function, arguments, check_more=getattr(function, "check_more", None))


def spelled(name: str) -> str:
    """Returns how a user runs a command who has started this process: its beginning of a line."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return f"python -m evar {name}"
    if started.suffix == ".py":
        script = started.with_name(f"{name}.py")
        return (
            f"python {shlex.quote(str(script))}" if script.is_file() else f"python -m evar {name}"
        )
    return f"evar {name}"


def call(
    name: str,
    function: Callable,
    arguments: list[str] | None = None,
    *,
    check_more: Callable[[list[str], list[str], list[str]], None] | None = None,
) -> None:
    """Runs a function as a command: its docstring is the help, its keywords are the options.

    `check_more(words, keys, options)` raises UserError for keys that neither the function nor
    what its `**` goes to knows; None takes them for options of the model that the first word is.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments  # an option of every command
    arguments = [a for a in arguments if a != "--debug"]
    with _one_line_for_errors(debug=debug):
        if any(a in ("-h", "--help") for a in arguments):
            print(_help_of(function, arguments))
            return
        arguments = _checked(name, function, arguments, check_more or check_model_options)
        import fire

        fire.Fire(function, command=arguments, name=name)
        leaving.leave_with(0)


@contextlib.contextmanager
def _one_line_for_errors(*, debug: bool = False) -> Iterator[None]:
    """Ends the process with one line and an exit code for whatever a command raises.

    debug: raises it. Standard output is written before this returns, in characters that it can
    show.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="evar.plain")
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        if debug:
            raise
        _exit(error)
    except BrokenPipeError:  # `... | head` has read enough
        _drop_output()
        _end(0)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        _end(130)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            print(f"error: cannot write ({error.strerror}). Free some space.", file=sys.stderr)
            _drop_output()
            _end(1)
        print(
            f"error: {described(error)}. This was not foreseen: --debug shows the traceback",
            file=sys.stderr,
        )
        _end(1)


def _drop_output() -> None:
    """Sends what is left of standard output nowhere, so that its end is no second error."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replaces what a terminal cannot show: signs of this program in ASCII, escapes for the rest.

    In UTF-8 these are the bytes of file names in other encodings.
    """
    assert isinstance(error, UnicodeEncodeError)
    left = error.object[error.start : error.end]
    signs = {"±": "+/-", "→": "->", "·": "-", "×": "x"}
    return "".join(signs.get(c, c.encode("ascii", "backslashreplace").decode()) for c in left), (
        error.end
    )


codecs.register_error("evar.plain", _plain)


def _help_of(function: Callable, arguments: list[str]) -> str:
    """Returns the help of a command, and of the options of the model that it is asked about."""
    text = inspect.getdoc(function) or ""
    words = [a for a in arguments if not a.startswith("-")]
    if not words or next(iter(inspect.signature(function).parameters), "") != "model":
        return text
    from evar import models

    options = models.options_of(words[0])
    lines = [f"--{name}={value}" for name, value in options.items()] or ["(none)"]
    return "\n".join([text, "", f"options of {words[0]}, with their values:", *lines])


def _exit(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)
    _end(2)


def _end(code: int) -> NoReturn:
    leaving.leave_with(code)
    sys.exit(code)


def _function(name: str) -> Callable:
    """Returns the function of a command: of evar/commands/NAME.py, or made from a protocol."""
    file = {spelled: own for own, spelled in _SPELLED.items()}.get(name, name)
    if (_FOLDER / f"{file}.py").is_file() and file not in _NO_COMMANDS:
        return getattr(importlib.import_module(f"evar.commands.{file}"), file)
    if name not in [*commands(), *protocol.names()]:
        raise unknown("command", name, commands())
    command_of = importlib.import_module("evar.commands.evaluate").command_of
    return command_of(protocol.of_command(name))


def _checked(
    name: str, function: Callable, arguments: list[str], check_more: Callable
) -> list[str]:
    """Returns the arguments with flags spelt out (`--quiet` -> `--quiet=True`), for Fire.

    Raises UserError for unknown options, options without a value and a wrong number of words,
    before anything is started.
    """
    parameters = list(inspect.signature(function).parameters.values())
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    words = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    given, more, checked = [], [], []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("-") or _is_number(argument):
            given.append(argument)
            checked.append(argument)
            continue
        key, equals, value = argument.partition("=")
        option = key.removeprefix("--").replace("-", "_")
        if not key.startswith("--") or (option not in options and not open_ended):
            raise unknown(f"option of {name}:", key, [f"--{o}" for o in options])
        if option not in options:
            more.append(key)
        if isinstance(options.get(option), bool):
            if equals and value not in ("True", "False"):
                raise UserError(f"{key} is a flag: give it alone, without {value!r}")
            checked.append(f"--{option}={value or True}")
            continue
        if not equals and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        if not value and option in options:
            raise UserError(f"{key} needs a value; --help explains it")
        checked.append(f"--{option}={value or True}")
    required = [w.name.upper() for w in words if w.default is w.empty]
    if len(given) < len(required):
        raise UserError(f"{name} needs {' '.join(required)}; --help explains them")
    if len(given) > len(words):
        raise UserError(f"{name} takes {len(words)} words at most; --help explains them")
    needed = [f"--{o}" for o, default in options.items() if default is inspect.Parameter.empty]
    missing = [key for key in needed if not any(c.startswith(f"{key}=") for c in checked)]
    if missing:
        raise UserError(f"{name} needs {' '.join(missing)}; --help explains them")
    if more:
        check_more(given, more, list(options))
    return checked


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_model_options(words: list[str], keys: list[str], options: list[str]) -> None:
    """Raises UserError for an option that neither the command nor the model's adapter has."""
    from evar import models

    known = models.option_names(words[0])
    for key in keys:
        if key.removeprefix("--").replace("-", "_") not in known:
            raise unknown("option", key, [f"--{option}" for option in [*options, *known]])
