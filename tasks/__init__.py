"""Data sets, one file each: a `TASK` literal and how its own metadata are read."""

from evar.callable_module import callable_module


def table() -> dict:
    """Returns all registered tasks: name -> evar.Task. `evar.tasks()` is the same."""
    from evar import task

    return {name: task.get(name) for name in task.names()}


callable_module(__name__, table)

if __name__ == "tasks":  # found from the checkout's root
    from evar.alias import alias

    alias("tasks", "evar.tasks")
