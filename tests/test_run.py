"""evar.evaluate, as a notebook, a script and a worker call them."""

import doctest
import gc
import multiprocessing
import subprocess
import sys

import pandas as pd
import pytest

import evar
import evar.run
from evar import extract
from evar.results import record
from evar.runtime import Runtime


def test_the_examples_of_the_docstrings_run():
    failed, tried = doctest.testmod(evar.run)
    assert tried >= 3
    assert not failed


def test_a_csv_and_the_same_table_score_alike(clips, simple):
    of_csv = evar.evaluate(simple, clips.csv, seeds=1, device="cpu")
    table = pd.read_csv(clips.csv)
    table["file"] = [str(clips.root / file) for file in table.file]
    of_table = evar.evaluate(simple, table, seeds=1, device="cpu")
    assert of_csv.score == of_table.score
    assert of_csv.predictions["predicted"].tolist() == of_table.predictions["predicted"].tolist()


def test_a_class_and_an_instance_serve_as_models():
    class Crossings(evar.Adapter):
        sample_rate, embed_dim = 16000, 1

        def embed(self, audio):
            return (audio[:, 1:].sign() != audio[:, :-1].sign()).float().mean(1, keepdim=True)

    how = {"seeds": 1, "device": "cpu"}
    runs = [evar.evaluate(m, "demo", **how) for m in (Crossings, Crossings())]
    assert runs[0].score == runs[1].score > 0
    assert runs[0].record.model.name == "Crossings"


def test_a_run_is_written_as_the_command_writes_it(clips, simple, lineareval, tmp_path):
    run = evar.evaluate(simple, clips.csv, device="cpu")
    path = run.save(tmp_path / "mine")
    assert lineareval(simple, clips.csv, "--device=cpu").code == 0
    (other,) = (tmp_path / "results/runs").glob("*.json")
    assert other.name == path.name
    kept, theirs = record.read_run(path), record.read_run(other)
    assert kept.score == theirs.score
    assert kept.request == theirs.request != ""


def test_what_was_asked_for_is_known_before_the_run(clips, simple):
    request = evar.run.prepare(simple, clips.csv, device="cpu", lr=0.02)
    assert request.overrides == {"lr": 0.02}
    assert request.run().record.request == request.key
    assert request.key != evar.run.prepare(simple, clips.csv, device="cpu").key


@pytest.mark.parametrize("on", [True, False])
def test_collection_of_garbage_is_as_it_was(clips, simple, on):
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        evar.evaluate(simple, clips.csv, seeds=1, device="cpu", epochs=1)
        assert gc.isenabled() == on
        with pytest.raises(evar.UserError):
            evar.evaluate(simple, "nonesuch")
        assert gc.isenabled() == on
    finally:
        (gc.enable if was_on else gc.disable)()


def _score(model, task, cache):
    return evar.evaluate(model, task, seeds=1, device="cpu", cache=cache).score


def test_another_process_can_be_sent_the_call(clips, simple, tmp_path):
    here = evar.evaluate(simple, clips.csv, seeds=1, device="cpu", cache=None).score
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_score, (simple, clips.csv, tmp_path / "other"))
    assert here == there


def test_what_is_no_option_of_anything_is_named(clips, simple):
    with pytest.raises(evar.UserError, match="did you mean --device"):
        evar.evaluate(simple, clips.csv, devise="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": 3}, "--cache must be a path, not 3"),
        ({"progress": "x"}, "progress must be True, False"),
        ({"progress": 1}, "progress must be True, False"),
        ({"device": 3}, "--device must be a name"),
        ({"data": 3}, "--data must be a path"),
        ({"data": "nowhere"}, r"nowhere: no such folder \(--data\)"),
        ({"skip_bad": "yes"}, "skip_bad must be True or False"),
    ],
)
@pytest.mark.parametrize("call", [evar.evaluate, evar.embed, extract.fill_cache])
def test_an_option_of_another_kind_is_refused(options, words, call, tmp_path):
    with pytest.raises(evar.UserError, match=words):
        call("logmel", "demo", **options)
    assert not (tmp_path / "nowhere").exists()


def test_weights_are_a_path():
    with pytest.raises(evar.UserError, match="--weights must be a path, not 3"):
        evar.evaluate("byola", "demo", weights=3)


def test_the_defaults_of_a_runtime_change_nothing():
    assert Runtime() == Runtime(device="cpu", precision="fp32", skip_bad=False)


def test_importing_evar_is_light():
    code = "import sys, evar; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
