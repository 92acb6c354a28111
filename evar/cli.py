"""Command lines: the root scripts and the console command `evar`. Imports nothing heavy."""

import importlib
import inspect
import sys
from collections.abc import Callable

from evar.errors import UserError, unknown

# Name of a command: the function behind it. `evar NAME ...` and `python NAME.py ...` are the same.
COMMANDS = {
    "lineareval": "evar.commands:lineareval",
    "prepare": "evar.commands:prepare",
    "leaderboard": "evar.commands:leaderboard",
    "list": "evar.commands:list_registered",
    "cache": "evar.commands:cache",
    "check": "evar.check:command",
}


def main(arguments: list[str] | None = None) -> None:
    """The console command `evar COMMAND ...`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: evar COMMAND ... (`evar COMMAND --help` explains one)\n")
        for name in COMMANDS:
            print(f"  {name:<12} {inspect.getdoc(_function(name)).splitlines()[0]}")
        return
    if arguments[0] not in COMMANDS:
        _exit(unknown("command", arguments[0], list(COMMANDS)))
    run(arguments[0], arguments[1:])


def run(name: str, arguments: list[str] | None = None) -> None:
    """Run one command; leaves with exit code 2 and one line for what a user can mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    function = _function(name)
    if any(a in ("-h", "--help") for a in arguments):
        print(inspect.getdoc(function))
        return
    try:
        _check_arguments(name, function, arguments)
        import fire

        fire.Fire(function, command=arguments, name=name)
    except UserError as error:
        _exit(error)
    except BrokenPipeError:  # `... | head` has read enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def _exit(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _function(name: str) -> Callable:
    module, _, attribute = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_arguments(name: str, function: Callable, arguments: list[str]) -> None:
    """Refuse unknown options and a wrong number of words before anything is started."""
    parameters = inspect.signature(function).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    words = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    flags = {o for o in options if isinstance(_default(function, o), bool)}
    given = skip = 0
    for at, argument in enumerate(arguments):
        if skip:
            skip -= 1
        elif argument.startswith("--"):
            key, equals, _ = argument[2:].partition("=")
            key = key.replace("-", "_")
            if key not in options and key not in [w.name for w in words] and not open_ended:
                raise unknown(f"option of {name}:", f"--{key}", [f"--{o}" for o in options])
            follows = at + 1 < len(arguments) and not arguments[at + 1].startswith("--")
            skip = int(not equals and key not in flags and follows)
            given += key in [w.name for w in words]
        elif argument.startswith("-") and len(argument) > 1 and not argument[1].isdigit():
            raise unknown(f"option of {name}:", argument, [f"--{o}" for o in options])
        else:
            given += 1
    required = [w.name.upper() for w in words if w.default is w.empty]
    if given < len(required):
        raise UserError(f"{name} needs {' '.join(required)}; `{name} --help` explains them")
    if given > len(words):
        raise UserError(f"{name} takes {len(words)} words at most; `{name} --help` explains them")


def _default(function: Callable, option: str):
    return inspect.signature(function).parameters[option].default
