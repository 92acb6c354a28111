"""The walk through one's own recordings works as it is written, from an empty folder."""

import html
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS))

import make_own_recordings as page_  # noqa: E402

PAGE = page_.PAGE.read_text(encoding="utf-8")


def test_the_commands_of_the_page_work_from_an_empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EVAR_DATA")
    page_.write_scripts(PAGE)
    said = {line: page_.run(line) for line in page_.steps(PAGE)}
    assert len(said) >= 8
    for line in PAGE.splitlines():  # what the page shows of the table is what is written
        if line.startswith("    sounds/cymbal/") and "," in line:
            assert line.split(",")[0].strip() in (folder / "sounds.csv").read_text()
    groups = next(line.strip() for line in PAGE.splitlines() if line.startswith("    groups: "))
    assert groups.removesuffix("...") in said["evar table sounds --groups=guess --overwrite"]
    for command, name in page_.PICTURES.items():  # the pictures are of today's program
        content = (page_.IMAGES / f"{name}.svg").read_text(encoding="utf-8")
        shown = " ".join(html.unescape(re.sub(r"<[^>]+>", "", content)).split())
        for line in said[command].splitlines():
            assert " ".join(line.split())[:60] in shown, line
    there = {path.name for path in folder.iterdir()}
    made = {"sounds", "sounds.csv", "make_field.py", "field", "field.csv", "new", "found"}
    assert there == {*made, "results"}
    assert (folder / "found/night6.txt").read_text()
    assert not (folder / "data").exists()


def test_pictures_ask_no_other_server():
    for name in page_.PICTURES.values():
        content = (page_.IMAGES / f"{name}.svg").read_text(encoding="utf-8")
        assert not re.search(r"url\(['\"]?http", content)
        assert len(content) < 60_000
