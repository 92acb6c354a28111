"""Sounds in tar shards and Parquet files: the same samples as the files they were made of."""

import io
import json
import tarfile

import numpy as np
import pandas as pd
import pytest
import soundfile

import evar
from evar import task as tasks
from evar.data import audio, opening, packed
from evar.data.containers.stream import Damaged
from evar.data.packed import listing, tar
from evar.errors import BadAudio, UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
RATE = 8000


def read(path) -> bytes:
    return packed.locate(path).read_bytes()


def sound(pitch: float, kind: str = "FLAC") -> bytes:
    time = np.arange(RATE // 4) / RATE
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * pitch * time), RATE, format=kind)
    return file.getvalue()


def write_tar(path, entries: dict[str, bytes]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def write_parquet(path, columns: dict, features: dict | None = None, group: int = 2):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        note = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": note})
    pq.write_table(table, path, row_group_size=group)
    return path


def sounds(*pitches) -> list[dict]:
    return [{"bytes": sound(p), "path": f"{p}.flac"} for p in pitches]


class TestPaths:
    def test_a_plain_file_is_not_packed(self, tmp_path):
        assert packed.locate(tmp_path / "a.wav") == tmp_path / "a.wav"
        (tmp_path / "odd.tar").mkdir()  # a folder of that name
        (tmp_path / "odd.tar/a.wav").write_bytes(b"x")
        assert packed.split(tmp_path / "odd.tar/a.wav") is None
        assert packed.status(tmp_path / "odd.tar/a.wav").st_size == 1

    def test_a_member_in_folders(self, tmp_path):
        shard = write_tar(tmp_path / "x.tar/y.TAR", {"a/b/c.flac": b"12345"})
        path = shard / "a/b/c.flac"
        assert packed.split(path) == (shard, "a/b/c.flac")
        assert read(path) == b"12345"
        assert packed.status(path).st_size == shard.stat().st_size

    def test_letters_whose_small_form_is_longer(self, tmp_path):
        shard = write_tar(tmp_path / "\u0130\u0130/x.tar", {"a.flac": b"1"})
        assert packed.split(shard / "a.flac") == (shard, "a.flac")

    def test_absent_members_are_absent_files(self, tmp_path):
        shard = write_tar(tmp_path / "x.tar", {"a.flac": b"1"})
        with pytest.raises(FileNotFoundError):
            read(shard / "b.flac")
        rows = write_parquet(tmp_path / "x.parquet", {"audio": sounds(100)})
        for name in ("audio/1", "audio/00", "audio/x", "sound/0", "0"):
            with pytest.raises(FileNotFoundError):
                read(rows / name)


def _read_whole(path):
    return audio.read_header(path), audio.decode(path)


class TestContainers:
    KINDS = ("WAV", "AIFF", "AU", "RF64", "W64", "FLAC", "OGG", "MP3", "CAF")

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_container_is_read_as_a_plain_file_is(self, tmp_path, kind):
        """The size that a header is checked against is that of the sound, not of its shard."""
        content = sound(440, kind)
        plain = tmp_path / f"a.{kind.lower()}"
        plain.write_bytes(content)
        shard = write_tar(tmp_path / "x.tar", {plain.name: content, "b.flac": sound(100)})
        inside = shard / plain.name
        assert audio.read_header(inside) == audio.read_header(plain)
        assert np.array_equal(audio.decode(inside)[0], audio.decode(plain)[0])

    @pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "RF64", "W64", "FLAC"])
    def test_what_is_cut_short_is_refused_as_a_plain_file_is(self, tmp_path, kind):
        content = sound(440, kind)[:-100]
        plain = tmp_path / f"a.{kind.lower()}"
        plain.write_bytes(content)
        shard = write_tar(tmp_path / "x.tar", {plain.name: content, "b.flac": sound(100)})
        reasons = []
        for path in (plain, shard / plain.name):
            with pytest.raises(BadAudio) as refused:
                _read_whole(path)
            reasons.append(refused.value.reason)
        assert reasons[0] == reasons[1]


class TestTar:
    def test_an_edited_shard_is_read_again(self, tmp_path):
        shard = write_tar(tmp_path / "x.tar", {"a.flac": b"1"})
        assert read(shard / "a.flac") == b"1"
        write_tar(shard, {"b.flac": b"22", "a.flac": b"333"})
        assert read(shard / "a.flac") == b"333"

    @pytest.mark.parametrize("cut", [100, 512 + 20, 1024 + 512])
    def test_truncated(self, tmp_path, cut):
        shard = write_tar(tmp_path / "x.tar", {"a.flac": b"1" * 600, "b.flac": b"2" * 600})
        shard.write_bytes(shard.read_bytes()[:cut])
        with pytest.raises(Damaged, match=r"x\.tar"):
            read(shard / "a.flac")

    def test_damaged_header_in_the_middle(self, tmp_path):
        shard = write_tar(tmp_path / "x.tar", {"a": b"1" * 600, "b": b"2", "c": b"3"})
        content = bytearray(shard.read_bytes())
        content[512 + 1024 + 5] ^= 1  # the header of b
        shard.write_bytes(content)
        with pytest.raises(Damaged, match="too early"):
            tar.members(shard)

    def test_links_and_doubles_are_refused(self, tmp_path):
        with tarfile.open(tmp_path / "x.tar", "w") as file:
            link = tarfile.TarInfo("a.wav")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(link)
        with pytest.raises(Damaged, match="link"):
            tar.members(tmp_path / "x.tar")
        with tarfile.open(tmp_path / "y.tar", "w") as file:
            for _ in range(2):
                file.addfile(tarfile.TarInfo("a.wav"))
        with pytest.raises(Damaged, match="twice"):
            tar.members(tmp_path / "y.tar")


class TestParquet:
    def test_rows_over_several_groups(self, tmp_path):
        pitches = [100, 200, 300, 400, 500]
        shard = write_parquet(tmp_path / "x.parquet", {"audio": sounds(*pitches)})
        for row in (4, 0, 3, 1, 2, 4):
            assert read(shard / f"audio/{row}") == sound(pitches[row])

    def test_a_row_without_bytes_names_itself(self, tmp_path):
        shard = write_parquet(
            tmp_path / "x.parquet", {"audio": [{"bytes": None, "path": "a.wav"}, *sounds(100)]}
        )
        with pytest.raises(Damaged, match="no bytes"):
            read(shard / "audio/0")
        assert read(shard / "audio/1") == sound(100)

    @pytest.mark.parametrize("cut", [0, 3, 100, -20])
    def test_damaged(self, tmp_path, cut):
        shard = write_parquet(tmp_path / "x.parquet", {"audio": sounds(100)})
        shard.write_bytes(shard.read_bytes()[:cut])
        with pytest.raises(Damaged, match=r"x\.parquet"):
            read(shard / "audio/0")


class TestListing:
    def test_datasets_layout(self, tmp_path):
        features = {
            "audio": {"_type": "Audio"},
            "label": {"_type": "ClassLabel", "names": ["cat", "dog, barking"]},
        }
        for split, labels in (("train", [0, 1, 0]), ("validation", [1]), ("test", [0, 1])):
            write_parquet(
                tmp_path / f"data/{split}-00000-of-00001.parquet",
                {"audio": sounds(*range(100, 100 + len(labels))), "label": labels},
                features,
            )
        found = listing.table(tmp_path)
        assert list(found.columns) == ["file", "label", "split"]
        assert found.file[2] == "data/train-00000-of-00001.parquet/audio/0"
        assert found.groupby("split").label.agg(list).to_dict() == {
            "test": ["cat", "dog/barking"],
            "train": ["cat", "dog/barking", "cat"],
            "valid": ["dog/barking"],
        }
        for name in found.file:
            assert read(tmp_path / name)[:4] == b"fLaC"

    def test_several_labels_and_a_group(self, tmp_path):
        write_parquet(
            tmp_path / "train.parquet",
            {"audio": sounds(1, 2), "labels": [["a", "b"], []], "who": ["x", "y"]},
        )
        found = listing.table(tmp_path, columns={"group": "who"})
        assert found[["label", "group"]].to_numpy().tolist() == [["a,b", "x"], ["-", "y"]]

    def test_what_is_ambiguous_is_asked_for(self, tmp_path):
        write_parquet(
            tmp_path / "train.parquet", {"audio": sounds(1), "species": ["a"], "site": ["b"]}
        )
        with pytest.raises(UserError, match=r"--column=NAME.*species, site"):
            listing.table(tmp_path)
        assert listing.table(tmp_path, columns={"label": "site"}).label.tolist() == ["b"]
        with pytest.raises(UserError, match="did you mean species"):
            listing.table(tmp_path, columns={"label": "specie"})

    def test_webdataset(self, tmp_path):
        write_tar(
            tmp_path / "train/000.tar",
            {
                "a/1.wav": sound(1, "WAV"),
                "a/1.json": b'{"label": "cat", "site": 3}',
                "a/2.flac": sound(2),
                "a/2.json": b'{"label": "dog", "site": 4}',
                "a/3.jpg": b"no sound",
            },
        )
        write_tar(tmp_path / "test/000.tar", {"9.flac": sound(3), "9.cls": b"cat\n"})
        with pytest.raises(UserError, match="no such field|group"):
            listing.table(tmp_path, columns={"group": "site"})
        found = listing.table(tmp_path)
        assert found.to_numpy().tolist() == [
            ["test/000.tar/9.flac", "cat", "test"],
            ["train/000.tar/a/1.wav", "cat", "train"],
            ["train/000.tar/a/2.flac", "dog", "train"],
        ]

    def test_a_shard_of_no_split_among_others(self, tmp_path):
        for name in ("train-0.tar", "more-0.tar"):
            write_tar(tmp_path / name, {"9.flac": sound(3), "9.cls": b"cat"})
        with pytest.raises(UserError, match=r"more-0\.tar.*split"):
            listing.table(tmp_path)

    def test_empty(self, tmp_path):
        with pytest.raises(UserError, match="no Parquet"):
            listing.table(tmp_path)
        write_tar(tmp_path / "a.tar", {"readme.txt": b"x"})
        with pytest.raises(UserError, match="no sounds"):
            listing.table(tmp_path)


def test_the_table_is_that_of_files(tmp_path):
    """Shards of the same sounds in both formats list the same labels."""
    write_tar(tmp_path / "w/train.tar", {"1.flac": sound(1), "1.cls": b"a"})
    write_parquet(tmp_path / "p/train.parquet", {"audio": sounds(1), "label": ["a"]})
    tables = [listing.table(tmp_path / each).drop(columns="file") for each in "wp"]
    pd.testing.assert_frame_equal(*tables)


@pytest.fixture(params=["tar", "parquet"])
def packed_demo(request, tmp_path):
    """The clips of the demo in shards, and a CSV of them; the same clips as plain files."""
    demo = tasks.get("demo")
    table = demo.read(demo.bundled).groupby(["split", "label"]).head(8).reset_index(drop=True)
    for split, rows in table.groupby("split"):
        contents = [(demo.bundled / name).read_bytes() for name in rows.file]
        if request.param == "tar":
            entries: dict[str, bytes] = {}
            for number, (content, label) in enumerate(zip(contents, rows.label, strict=True)):
                entries |= {f"{number:03}.flac": content, f"{number:03}.cls": label.encode()}
            write_tar(tmp_path / f"shards/{split}-0.tar", entries)
        else:
            audio = [{"bytes": content, "path": None} for content in contents]
            write_parquet(
                tmp_path / f"shards/{split}-0.parquet",
                {"audio": audio, "label": rows.label.tolist()},
                group=7,
            )
    listing.table(tmp_path / "shards").to_csv(tmp_path / "shards/packed.csv", index=False)
    own = table.assign(file=[str(demo.bundled / name) for name in table.file])
    return tmp_path / "shards", own[["file", "label", "split"]]


def test_shards_score_as_their_files_do(packed_demo):
    folder, own = packed_demo
    runs = [
        evar.evaluate("logmel", each, seeds=1, device="cpu", data=folder.parent, cache=None)
        for each in (folder / "packed.csv", own)
    ]
    scores = [np.sort(run.predictions[run.predictions.columns[3]].to_numpy()) for run in runs]
    assert runs[0].record.clips == runs[1].record.clips
    assert runs[0].score == runs[1].score
    assert (scores[0] == scores[1]).all()


def test_what_is_damaged_or_gone_is_named(packed_demo):
    folder, _ = packed_demo
    table = pd.read_csv(folder / "packed.csv")
    shard = next(p for p in folder.iterdir() if p.name.startswith("train"))
    table.loc[0, "file"] += "9"
    table.to_csv(folder / "packed.csv", index=False)
    found = opening.open_task(folder / "packed.csv", data=folder.parent)
    assert len(found.missing) == 1
    assert len(found.bad) == 0
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=shard.name):
        opening.open_task(folder / "packed.csv", data=folder.parent)


def test_a_table_from_shards_is_scored(packed_demo, command):
    folder, _ = packed_demo
    made = command("table", str(folder), "--quiet")
    assert made.code == 0, made.err
    assert "clips" in made.out
    ran = command("lineareval", "logmel", f"{folder}.csv", "--seeds=1", "--quiet")
    assert ran.code == 0, ran.err
    assert "--groups=guess" not in made.out
    plain = command("predict", "logmel", f"{folder}.csv", str(folder), "--audio=none", "--quiet")
    assert plain.code == 0, plain.err
    [out] = (folder.parent / "results/predictions").glob("*.csv")
    listed = pd.read_csv(f"{folder}.csv")
    assert sorted(f"shards/{name}" for name in pd.read_csv(out).file) == sorted(listed.file)
    one = next(path for path in folder.iterdir() if path.name.startswith("test"))
    alone = command("predict", "logmel", f"{folder}.csv", str(one), "--audio=none", "--quiet")
    assert alone.code == 0, alone.err
    refused = command("table", str(folder), "--labels=x.txt", "--overwrite", "--quiet")
    assert refused.code != 0
    assert "--column" in refused.err
