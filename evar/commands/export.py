"""`export`: results for a model card or a paper."""

from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError

_FORMATS = ("card", "latex")


@SetParseFns(**dict.fromkeys(("model", "format", "protocol", "out", "results"), str))
def export(model="", *, format="card", protocol="", out="", results=""):
    """Write a model's results for its model card, or the leaderboard as a LaTeX table.

    usage: export MODEL [options]
           export --format=latex [options]

    --format=card    the model-index of the Hugging Face Hub (YAML) and a section of Markdown;
                     or latex: a table with booktabs of all models, or of MODEL alone
    --protocol=NAME  results of this protocol alone; latex needs it where there are several
    --out=FILE       default: print
    --results=DIR    the results folder; default: $EVAR_RESULTS or results/
    """
    from evar import files
    from evar.data import own_sounds
    from evar.pages import finding, latex_board, model_card

    if format not in _FORMATS:
        raise UserError(f"--format={format}: not one of {', '.join(_FORMATS)}")
    results = results or own_sounds.usual_results()
    runs = [r for r in finding.load(results) if protocol in ("", r.protocol)]
    if not runs:
        raise UserError(f"{results}: no runs of --protocol={protocol}")
    if format == "latex":
        text = latex_board.table(results, model=model, protocol=protocol)
    elif not model:
        raise UserError("export needs MODEL; --help explains it")
    else:
        chosen = model_card.newest(runs, model)
        text = f"{model_card.front_matter(chosen)}\n{model_card.section(chosen)}"
    if out:
        files.write_atomic(Path(out), text)
        print(out)
    else:
        print(text, end="")
