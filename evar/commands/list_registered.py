"""`list models|tasks`: what is registered."""

from fire.decorators import SetParseFns

from evar.errors import unknown


@SetParseFns(what=str, data=str)
def list_registered(what, *, data=None):
    """List the registered models or tasks.

    usage: list models|tasks [options]

    --data=DIR     where manifests are (to tell which tasks are prepared)
    """
    if what == "models":
        from evar import models

        for name in models.names():
            print(f"{name:<20} {models.config(name).title}")
    elif what == "tasks":
        from evar import task as tasks
        from evar.data.opening import data_folder

        layout = "{:<14} {:>9} {:>7}  {:<8} {:>7}  {:<8}  {:<8}  {}"
        heads = ("task", "clips", "classes", "split", "seconds", "metric", "prepared", "licence")
        print(layout.format(*heads))
        for name in tasks.names():
            task = tasks.get(name)
            split = f"{len(task.folds)} folds" if task.folds else "split"
            total = f"{sum(task.counts.values()):,}"
            seconds = f"{task.seconds:g}" if task.seconds else "whole"
            known = (data_folder(data) / "manifests" / f"{name}.json").exists() or bool(
                task.bundled
            )
            prepared = "yes" if known else "no"
            classes = str(task.classes or "-")
            print(
                layout.format(
                    *(name, total, classes, split, seconds, task.metric, prepared, task.licence)
                )
            )
    else:
        raise unknown("list:", what, ["models", "tasks"])
