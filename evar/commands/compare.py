"""`compare`: two runs or models on the same clips."""

import sys

from fire.decorators import SetParseFns

from evar.errors import UserError

_FORMATS = ("text", "markdown", "latex", "json")
_TEXT = ("a", "b", "task", "protocol", "also", "results", "data", "audio", "format")


@SetParseFns(**dict.fromkeys(_TEXT, str))
def compare(
    a,
    b,
    *,
    task="",
    protocol="",
    also="",
    format="text",
    results="",
    data="",
    audio="",
):
    """Compare two runs or two models on the same test clips; print it and write a page.

    usage: compare RUN RUN [options]
           compare MODEL MODEL [options]

    RUN is an id in results/runs/ or the beginning of one. Two models are compared over all tasks
    that both have on the same clips, by their newest runs without overrides.

    --task=NAME        one task alone
    --protocol=NAME    where two models share several protocols
    --also=MODEL,...   further models, for mean ranks over the tasks that all have
    --format=text      or markdown, latex, json: how the result is printed
    --audio=HOW        embed, link or none: sounds of clips on which two runs disagree
    --data=DIR         data sets and manifests; default: $EVAR_DATA or data/
    --results=DIR      the results folder; default: $EVAR_RESULTS or results/
    """
    from evar.data import own_sounds
    from evar.pages import comparison, finding, pairs
    from evar.results import escape

    if format not in _FORMATS:
        raise UserError(f"--format={format}: not one of {', '.join(_FORMATS)}")
    if audio not in ("", "embed", "link", "none"):
        raise UserError(f"--audio={audio}: not one of embed, link, none")
    results = results or own_sounds.usual_results(task)
    runs = finding.load(results)
    models = {run.model.name for run in runs}
    if a in models or b in models:
        chosen = pairs.of_models(runs, a, b, protocol=protocol, task=task)
        for run in (run for pair in chosen for run in pair):
            if said := finding.chosen_of(run, runs):
                print(escape.terminal(said), file=sys.stderr)
    else:
        chosen = [(finding.run_of(runs, a), finding.run_of(runs, b))]
    found = [pairs.compare(*pair, results, data=data or None) for pair in chosen]
    several = [*dict.fromkeys([a, b, *filter(None, also.split(","))])]
    unknown = [name for name in several[2:] if name not in models]
    if unknown:
        raise UserError(f"--also={unknown[0]}: no such model in {results}")
    ranks = comparison.ranks_of(runs, several, found[0].a.protocol)
    path = comparison.write(found, results, ranks=ranks, data=data or None, audio=audio)
    if format == "json":
        print(comparison.as_json(found, ranks))
    elif format == "latex":
        print(comparison.as_latex(found), end="")
    elif format == "markdown":
        print(comparison.as_markdown(found))
    else:
        print(escape.terminal(comparison.sentence(found)))
        for row in comparison.lines(found) if len(found) > 1 else ():
            print("  " + escape.terminal("  ".join(filter(None, row))))
        for pair in found:
            for note in pair.notes:
                print(f"note: {escape.terminal(f'{pair.a.task.name}: {note}')}")
        if ranks is not None:
            shown = zip(ranks.models, ranks.ranks, strict=True)
            said = ", ".join(f"{escape.terminal(m)} {r:.2f}" for m, r in shown)
            print(f"mean ranks: {said} (critical difference {ranks.critical:.2f})")
    print(f"page: {path}", file=sys.stderr if format != "text" else sys.stdout)
