"""Tables as spreadsheets write them; the bytes follow each program's documentation."""

import csv
import io
import unicodedata
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evar.data import opening, own_sounds
from evar.data.tables import headers, reading
from evar.errors import UserError
from evar.progress import Progress

BIRDS = [
    {"file": "a.wav", "label": "Käuzchen", "split": "train"},
    {"file": "b c.wav", "label": 'Meise, "blau"', "split": "test"},
]


def read(path, content: bytes, **how):
    Path(path).write_bytes(content)
    return reading.read_table(path, **how)


AS_WRITTEN = {
    "Excel, German, 'CSV UTF-8'": (
        '\ufeffFilename;Label;Split\r\na.wav;Käuzchen;train\r\nb c.wav;"Meise, ""blau""";test\r\n',
        "utf-8",
        ["separated by semicolons", "'Filename' is the file"],
    ),
    "Excel, German, 'CSV (Trennzeichen-getrennt)'": (
        'file;label;split\r\na.wav;Käuzchen;train\r\nb c.wav;"Meise, ""blau""";test\r\n;;\r\n',
        "cp1252",
        ["Windows-1252", "semicolons"],
    ),
    "Excel, US, 'CSV (Comma delimited)'": (
        "File,Class,Subset\r\na.wav,Käuzchen,Training\r\n"
        'b c.wav,"Meise, ""blau""",Testing\r\n,,\r\n',
        "cp1252",
        ["Windows-1252", "'Class' is the label", "'Training' is train"],
    ),
    "Excel, 'Unicode Text'": (
        "\ufefffile\tlabel\tsplit\r\na.wav\tKäuzchen\ttrain\r\n"
        'b c.wav\t"Meise, ""blau"""\ttest\r\n',
        "utf-16-le",
        ["UTF-16", "tabs"],
    ),
    "Excel's line sep=": (
        '"sep=;"\r\nfile;label;split\r\na.wav;Käuzchen;train\r\nb c.wav;"Meise, ""blau""";test\r\n',
        "utf-8",
        ["semicolons"],
    ),
    "LibreOffice, all text cells quoted": (
        '"file","label","split"\n"a.wav","Käuzchen","train"\n"b c.wav","Meise, ""blau""","test"\n',
        "utf-8",
        [],
    ),
    "LibreOffice, UTF-16": (
        '\ufefffile,label,split\na.wav,Käuzchen,train\nb c.wav,"Meise, ""blau""",test\n',
        "utf-16-be",
        ["UTF-16"],
    ),
    "Excel on macOS, lines that end with CR": (
        'file,label,split\ra.wav,Käuzchen,train\rb c.wav,"Meise, ""blau""",test\r',
        "utf-8",
        [],
    ),
    "pandas, with its index": (
        ',file,label,split\n0,a.wav,Käuzchen,train\n1,b c.wav,"Meise, ""blau""",test\n',
        "utf-8",
        ["left aside: column 1 (without a name)"],
    ),
}


@pytest.mark.parametrize("program", AS_WRITTEN)
def test_what_spreadsheets_write_is_the_same_table(program, tmp_path):
    text, encoding, said = AS_WRITTEN[program]
    table = read(tmp_path / "t.csv", text.encode(encoding))
    assert table.frame.to_dict("records") == BIRDS
    for phrase in said:
        assert phrase in "; ".join(table.notes)
    assert bool(table.notes) == bool(said)


def test_a_workbook(tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["File name", "Species", "Fold", None], ["a.wav", "owl", 1], [], ["b.wav", 7, 2.0]):
        sheet.append(row)
    book.create_sheet("empty")
    book.save(tmp_path / "t.xlsx")
    table = reading.read_table(tmp_path / "t.xlsx")
    assert table.frame.to_dict("records") == [
        {"file": "a.wav", "label": "owl", "fold": "1"},
        {"file": "b.wav", "label": "7", "fold": "2"},
    ]
    book["empty"].append(["x"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(UserError, match="which sheet.*--sheet=Sheet"):
        reading.read_table(tmp_path / "t.xlsx")
    assert len(reading.read_table(tmp_path / "t.xlsx", sheet="Sheet").frame) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"file,label\na.wav,b\n"])
def test_what_is_no_workbook_is_named(content, tmp_path):
    with pytest.raises(UserError, match=r"t\.xlsx: not a workbook"):
        read(tmp_path / "t.xlsx", content)


def test_a_workbook_is_a_task(new_clips, tmp_path):
    made = new_clips()
    for i in range(4):
        made.add(f"{i}.wav", "ab"[i % 2], ("train", "test")[i // 2])
    book = openpyxl.Workbook()
    for row in (made.columns, *made.rows):
        book.active.append(row)
    book.save(made.root / "t.xlsx")
    assert opening.open_task(made.root / "t.xlsx").sha256 == opening.open_task(made.csv).sha256


# --- names of columns


@pytest.mark.parametrize(
    ("title", "name"),
    [("FILE", "file"), ("File Name", "file"), ("filepath", "file"), ("Begin File", "file")]
    + [("Class", "label"), ("event_label", "label"), ("subset", "split"), ("Fold", "fold")]
    + [("Begin Time (s)", "start"), ("End Time (s)", "end"), ("start [sec]", "start")]
    + [("Low Freq (Hz)", ""), ("file (MB)", ""), ("speaker", ""), ("", "")],
)
def test_titles_and_their_meaning(title, name):
    assert headers.meaning(title) == name


@pytest.mark.parametrize(
    ("title", "name"),
    [("gruop", "group"), ("goup", "group"), ("groupp", "group"), ("grp", "group")]
    + [("lable", "label"), ("spilt", "split"), ("fle", "file"), ("strat", "start")],
)
def test_a_misspelt_column_is_refused(title, name):
    with pytest.raises(UserError, match=rf"{title}.*did you mean {name}\?"):
        headers.understand(["a", "b", title], "t.csv")


@pytest.mark.parametrize("title", ["folder", "notes", "temperature", "profile", "Labeller"])
def test_other_columns_are_left_aside_by_name(title):
    head = headers.understand(["file", "label", "split", title], "t.csv")
    assert head.aside == (title,)
    assert head.notes == (f"left aside: {title}",)


def test_what_may_be_a_group_is_said(tmp_path):
    head = headers.understand(["file", "label", "split", "Speaker"], "t.csv")
    assert "'Speaker' may be what must not be on both sides" in head.notes[-1]


def test_two_columns_for_one_meaning_are_asked_for():
    titles = ["path", "Species", "Class", "set"]
    with pytest.raises(UserError, match="which column is the label: Species or Class"):
        headers.understand(titles, "t.csv")
    head = headers.understand(titles, "t.csv", chosen={"label": "species"})
    assert head.at == {"label": 1, "file": 0, "split": 3}
    assert headers.understand(["file", "path", "label"], "t.csv").at == {"file": 0, "label": 2}
    with pytest.raises(UserError, match="unknown column of t.csv.*'Specis'.*did you mean Species"):
        headers.understand(titles, "t.csv", chosen={"label": "Specis"})


def test_an_offset_is_an_end_only_after_an_onset():
    assert headers.understand(["file", "onset", "offset"], "t").at["end"] == 2
    assert "end" not in headers.understand(["file", "start", "offset"], "t").at


def test_milliseconds_are_no_seconds():
    with pytest.raises(UserError, match="start .ms.: times are in seconds"):
        headers.understand(["file", "label", "start (ms)", "end (ms)"], "t.csv")


# --- segments


def times(tmp_path, text: str):
    frame = read(tmp_path / "t.csv", text.encode()).frame
    return list(zip(frame.start, frame.end, strict=True))


def test_segments_are_seconds(tmp_path):
    text = "Begin File,Begin Time (s),End Time (s),label,split\na.wav,0,1.5,x,train\n"
    assert times(tmp_path, text) == [(0.0, 1.5)]


def test_decimal_commas_of_german_excel(tmp_path):
    head = "file;label;split;start;end\r\n"
    assert times(tmp_path, head + "a.wav;x;train;0,5;1,250\r\n") == [(0.5, 1.25)]
    assert times(tmp_path, head + "a.wav;x;train;0.5;1.250\r\n") == [(0.5, 1.25)]
    head = head.replace(";", "\t")
    assert times(tmp_path, head + "a.wav\tx\ttrain\t0,5\t1,25\r\n") == [(0.5, 1.25)]
    with pytest.raises(UserError, match="line 2: end 1,250: a thousand, or decimals"):
        times(tmp_path, head + "a.wav\tx\ttrain\t0,5\t1,250\r\n")
    with pytest.raises(UserError, match="the column has points as well"):
        times(tmp_path, head + "a.wav\tx\ttrain\t0\t1.5\r\na.wav\tx\ttrain\t1\t2,5\r\n")


def test_rows_without_times_are_whole_files(tmp_path):
    text = "file,label,split,start,end\na.wav,x,train,,\nb.wav,x,train,1,2\n"
    np.testing.assert_equal(times(tmp_path, text), [(np.nan, np.nan), (1.0, 2.0)])
    frame = read(tmp_path / "t.csv", b"file,label,split,start,end\na.wav,x,train,,\n").frame
    assert list(frame) == ["file", "label", "split"]


@pytest.mark.parametrize(
    "cells", ["1,1", "2,1", "-1,1", "1,", ",1", "x,1", "nan,1", "0,inf", "0:01,2"]
)
def test_what_is_no_segment_is_refused(cells, tmp_path):
    with pytest.raises(UserError, match="line 2: "):
        times(tmp_path, f"file,label,split,start,end\na.wav,x,train,{cells}\n")


def test_a_start_alone_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no end"):
        times(tmp_path, "file,label,split,start\na.wav,x,train,1\n")


def test_segments_of_a_recording_are_a_group(tmp_path):
    (tmp_path / "t.csv").write_text(
        "file,label,split,start,end\na.wav,x,train,0,1\na.wav,y,train,1,2\nb.wav,y,test,,\n"
    )
    task = own_sounds.task_from_csv(tmp_path / "t.csv")
    assert task.group == "recording"
    assert task.read(None).group.tolist() == ["a.wav", "a.wav", "b.wav"]
    assert task.read(None).start.tolist()[:2] == [0, 1]
    same = task.read(None).drop(columns="group").assign(file=lambda t: tmp_path / "x" / t.file)
    assert own_sounds.task_from_table(same).read(None).end.tolist()[:2] == [1, 2]


# --- files


def test_absolute_paths_inside_the_folder(sound, tmp_path):
    sound(tmp_path / "sub/caf\u00e9.wav")
    there = unicodedata.normalize("NFD", str(tmp_path / "sub/caf\u00e9.wav"))
    text = f"file,label,split\n{there},x,train\n{tmp_path}/../{tmp_path.name}/b.wav,x,train\n"
    table = read(tmp_path / "t.csv", text.encode())
    assert table.frame.file.tolist() == ["sub/caf\u00e9.wav", "b.wav"]
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    table = read(tmp_path / "t.csv", f"file\n{tmp_path}/link/b.wav\n".encode())
    assert table.frame.file.tolist() == ["link/b.wav"]


# --- what is said


class Said(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_what_was_understood_is_said_once(new_clips):
    made = new_clips()
    for i in range(4):
        made.add(f"{i}.wav", "ab"[i % 2], ("train", "test")[i // 2])
    path = Path(made.csv)
    opening.open_task(path, progress=(plain := Said()))
    assert not [note for note in plain.notes if "separated" in note]
    before = opening.open_task(path).sha256
    path.write_text(path.read_text().replace(",", ";").replace("label", "Class"))
    manifest = opening.open_task(path, progress=(said := Said()))
    assert manifest.sha256 == before
    assert [note for note in said.notes if "'Class' is the label" in note] == [
        f"{path}: cells are separated by semicolons; 'Class' is the label"
    ]


# --- any dialect: what is written is what is read

cells = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12
).map(str.strip)
filled = cells.filter(bool)
names = st.from_regex(r"[a-zäöü][a-z0-9 äöü_-]{0,8}\.wav", fullmatch=True)
rows_ = st.lists(st.tuples(names, filled, st.sampled_from(["train", "test"]), cells), min_size=1)
titles = st.tuples(
    *(
        st.sampled_from([w for w, n in headers._MEANT.items() if n == name])
        for name in ("file", "label", "split", "group")
    )
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=rows_,
    titles=titles,
    order=st.permutations(range(4)),
    case=st.sampled_from([str.lower, str.upper, str.title]),
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    line=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    stated=st.booleans(),
)
def test_reading_what_was_written_gives_the_table(
    rows, titles, order, case, separator, encoding, line, quoting, stated, tmp_path
):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=line, quoting=quoting)
    for row in ([case(title) for title in titles], *rows):
        writer.writerow([row[i] for i in order])
    head = f"sep={separator}{line}" if stated else ""
    table = read(tmp_path / "t.csv", (head + text.getvalue()).encode(encoding), blank=("group",))
    read_back = table.frame[["file", "label", "split", "group"]].itertuples(index=False, name=None)
    assert list(read_back) == rows
