"""`zeroshot MODEL TASK`: what its command line has beyond the protocol, answers for a person."""

from pathlib import Path

from evar import protocol
from evar.commands.evaluate import Extra, command_of
from evar.errors import UserError

_UNKNOWN = "?"  # the label of a clip of which nothing is known


def _answer(model: str, task: str, options: dict) -> bool:
    """With --labels: prints a table of clip, best label and scores, and no score of the model."""
    if options["labels"] is None:
        _require_task(task)
        return False
    from evar import models, run
    from evar.data import opening, own_sounds, prompts
    from evar.protocols import zeroshot
    from evar.runtime import usable

    if own_sounds.is_csv(task):
        raise UserError(f"{task}: --labels is for sounds; a CSV has its labels: leave --labels out")
    names = _labels(options["labels"])
    models.require_text(model)
    if not Path(task).exists():
        raise UserError(f"{task}: no such sound file or folder (--labels is for your own sounds)")
    aside = ("labels", "explain", "template", "captions", "weights", "data", "results", "partial")
    how = {k: v for k, v in options.items() if k not in aside and v is not None}
    how["progress"] = not how.pop("quiet")
    if how.pop("no_cache"):
        how["cache"] = None
    _, runtime, of_adapter = run.split_options(None, model, how)
    manifest = opening.open_sounds(task, progress=runtime.progress)
    manifest.require_usable(skip_bad=runtime.skip_bad)
    runtime = usable(runtime)
    rule = prompts.rule_of(manifest, names, template=options["template"], path=options["captions"])
    captions = rule.captions(names, {})
    loaded = models.load(model, weights=options["weights"], **of_adapter)
    classified = zeroshot.classify(loaded, manifest, names, captions, runtime)
    if options["explain"]:
        print("\n".join(_nearest(classified.table(), dict(zip(names, captions, strict=True)), {})))
    table = classified.table()
    best = [names[i] for i in classified.similarity.argmax(axis=1)]
    table.insert(1, "best", best, allow_duplicates=True)
    print(table.to_string(index=False, float_format="%.3f"))
    for file in classified.manifest.bad.file:
        print(f"skipped, cannot be decoded: {file}")
    return True


def _explain(run, *, labels, explain: bool) -> None:
    """With --explain: prints the nearest captions of some clips."""
    if explain:
        truth = dict(zip(run.predictions["clip"], run.predictions["true"], strict=True))
        captions = run.record.extra["captions"]
        print("\n".join(_nearest(run.tables["similarities"], captions, truth)))


def _nearest(table, captions: dict, truth: dict, count: int = 6, best: int = 5) -> list[str]:
    """Returns, for clips evenly spread over the table, the captions that are nearest to each."""
    names, similarity = list(table.columns[1:]), table.iloc[:, 1:].to_numpy()
    lines, total = [], len(table)
    for i in range(min(count, total)):
        at = i * total // min(count, total)
        clip = table.iloc[at, 0]
        label = truth.get(clip, _UNKNOWN)
        known = set() if label == _UNKNOWN else set(label.split(","))
        lines.append(f"{clip}" + (f" (true: {label})" if known else ""))
        for number in (-similarity[at]).argsort(kind="stable")[:best]:
            mark = "*" if names[number] in known else " "
            caption = " | ".join(captions[names[number]])
            lines.append(f"  {mark} {similarity[at, number]:+.3f}  {caption}")
    return lines


def _labels(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise UserError(
            f'--labels={text!r}: two or more labels with "," between them, each once, none empty'
        )
    return names


def _require_task(task: str) -> None:
    from evar.data import own_sounds
    from evar.task import names

    if Path(task).exists() and not own_sounds.is_csv(task) and task not in names():
        raise UserError(f'{task}: sounds of your own need labels: --labels="dog bark,rain"')


zeroshot = command_of(
    protocol.get("zeroshot"),
    Extra(
        options={"labels": None, "explain": False},
        help="""
--labels=LIST  labels with "," between them: prints a table of clip, best label and scores
--explain      print the five nearest captions of some clips
""",
        usage='\n       zeroshot MODEL path/to/clips --labels="dog bark,siren,rain"',
        text=("labels",),
        instead=_answer,
        after=_explain,
    ),
)
