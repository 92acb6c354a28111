"""Model cards and LaTeX tables."""

import yaml

from helpers import made_results as made


def test_a_model_card_holds_the_numbers_of_the_records(command, tmp_path):
    made.run_of(tmp_path, "mine", 0.8)
    made.run_of(tmp_path, "mine", 0.5, of=made.NASTY)
    ran = command("export", "mine", f"--results={tmp_path}")
    _, front, body = ran.out.split("---\n", 2)
    index = yaml.safe_load(front)["model-index"]
    assert [entry["name"] for entry in index] == ["mine"]
    first = next(r for r in index[0]["results"] if r["dataset"]["type"] == "esc50")
    from evar.results import record

    run = next(r for r in record.load_runs(tmp_path)[0] if r.task.name == "esc50")
    assert first["metrics"][0]["type"] == "accuracy"
    assert first["metrics"][0]["value"] == round(run.score.mean, 6)
    assert run.id in first["source"]["name"]
    assert f"{100 * run.score.mean:.1f} ± {100 * run.score.ci95:.1f}" in body
    assert "<img" not in body


def test_latex_has_bold_for_the_best_and_a_line_for_ties(command, tmp_path):
    for noise, (name, right) in enumerate([("a_1", 0.9), ("b", 0.88), ("c", 0.2)]):
        made.run_of(tmp_path, name, right, noise=noise)
    made.published(tmp_path, "linear,M2D,esc50,50.0,0.1")
    ran = command("export", "--format=latex", f"--results={tmp_path}")
    assert ran.out.count(r"\textbf{") == 1
    assert ran.out.count(r"\underline{") == 1
    assert r"a\_1" in ran.out
    out = tmp_path / "table.tex"
    command("export", "--format=latex", f"--out={out}", f"--results={tmp_path}")
    assert out.read_text() == ran.out


def test_what_is_missing_is_named(command, tmp_path):
    made.run_of(tmp_path, "mine", 0.8)
    for words, said in (
        ((), "needs MODEL"),
        (("yours",), "unknown model"),
        (("mine", "--format=word"), "not one of card, latex"),
        (("mine", "--protocol=knn"), "no runs"),
    ):
        ran = command("export", *words, f"--results={tmp_path}")
        assert ran.code == 2
        assert said in ran.err
