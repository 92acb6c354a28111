"""Data sets, one file each: a `TASK` literal and how its own metadata are read."""

if __name__ == "tasks":  # found from the checkout's root
    from evar.alias import alias

    alias("tasks", "evar.tasks")
