"""Every task and model that has a paper can be cited."""

import re
from pathlib import Path

import pytest

import evar
from evar import models, task

CITED = {f"model {n}": models.config(n).citation for n in models.names() if models.config(n).paper}
CITED |= {f"task {n}": task.get(n).citation for n in task.names() if task.get(n).bundled is None}


def entry(text: str) -> tuple[str, str, dict[str, str]]:
    """Kind, key and fields of one BibTeX entry."""
    head = re.fullmatch(r"@(\w+)\{([\w-]+),\n(.*)\}", text.strip(), re.DOTALL)
    assert head, text
    fields = re.findall(r"^  (\w+) = \{(.*?)\},$", head[3], re.MULTILINE | re.DOTALL)
    return head[1], head[2], dict(fields)


@pytest.mark.parametrize("name", CITED)
def test_each_has_a_bibtex_entry(name):
    kind, key, fields = entry(CITED[name])
    assert {"author", "title"} <= set(fields)
    venue = {"article": "journal", "inproceedings": "booktitle"}.get(kind)
    assert venue is None or venue in fields
    assert kind in ("article", "inproceedings", "misc")
    assert CITED[name].count("{") == CITED[name].count("}")
    if "year" in fields:
        assert fields["year"] in key
        assert 1990 < int(fields["year"]) < 2100


@pytest.mark.parametrize("name", [n for n in models.names() if models.config(n).paper])
def test_a_models_entry_is_of_the_paper_named_beside_it(name):
    config = models.config(name)
    _, _, fields = entry(config.citation)
    surname = fields["author"].partition(",")[0]
    assert config.paper.startswith(f"{surname} ")
    words = re.findall(r"[a-z]{4,}", re.sub(r"[{}]", "", fields["title"]).lower())
    assert words[-1] in config.paper.lower()


def test_one_key_is_one_paper():
    by_key: dict[str, set[str]] = {}
    for text in CITED.values():
        by_key.setdefault(entry(text)[1], set()).add(" ".join(text.split()))
    assert {key: len(texts) for key, texts in by_key.items() if len(texts) > 1} == {}


def test_the_software_is_cited_in_its_own_version():
    text = (Path(__file__).parent.parent / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", text, re.MULTILINE)[1] == evar.__version__
