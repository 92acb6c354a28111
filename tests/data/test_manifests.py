"""The manifest: what a data set has on this disk, checked against what it should have."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from evar import task as tasks
from evar.data import audio, indexing, manifests, own_sounds
from evar.data.clip_table import label_set
from evar.errors import UserError


@pytest.fixture
def looked_at(monkeypatch):
    """Names of the files whose headers are read, in the order of reading."""
    names, real = [], audio.read_header

    def read_header(path):
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(audio, "read_header", read_header)
    return names


def build(made):
    return indexing.build(own_sounds.task_from_csv(made.csv), made.root)


def open_task(made, tmp_path):
    task = own_sounds.task_from_csv(made.csv)
    return manifests.open_task(task, tmp_path / "data", source=task.bundled, name="kept")


# --- identity


def test_the_same_content_elsewhere_has_the_same_sha256(clips, tmp_path):
    made, copy = clips, shutil.copytree(clips.root, tmp_path / "elsewhere/sounds")
    first = build(made)
    made.root = copy
    second = build(made)
    assert first.sha256 == second.sha256
    assert first.root != second.root


def test_the_order_of_rows_does_not_matter(clips):
    first = build(clips)
    clips.rows.reverse()
    assert build(clips).sha256 == first.sha256


@pytest.mark.parametrize("change", ["label", "side", "group", "removed", "sound"])
def test_every_change_of_the_data_changes_the_sha256(change, clips, sound):
    before = build(clips).sha256
    row = clips.listed("train/low0.wav")
    if change == "label":
        row[1] = "high"
    elif change == "side":
        row[2] = "test"
    elif change == "group":
        clips.columns.append("group")
        for row in clips.rows:
            row.append(row[0])
    elif change == "removed":
        clips.rows.remove(row)
    else:
        sound(clips.root / row[0], hertz=123)
    assert build(clips).sha256 != before


def test_an_edit_of_same_size_and_same_time_is_noticed(clips, tmp_path):
    before = open_task(clips, tmp_path)
    path = clips.root / "train/low0.wav"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_task(clips, tmp_path).sha256 != before.sha256


# --- indexing once


def test_a_second_look_reads_only_what_changed(clips, tmp_path, sound, looked_at):
    open_task(clips, tmp_path)
    assert len(looked_at) == 24
    looked_at.clear()
    again = open_task(clips, tmp_path)
    assert looked_at == []
    sound(clips.root / "test/low1.wav", hertz=321, seconds=0.25)
    clips.add("test/low9.wav", "low", "test")
    after = open_task(clips, tmp_path)
    assert sorted(looked_at) == ["low1.wav", "low9.wav"]
    assert after.sha256 != again.sha256
    assert after.table.set_index("file").frames["test/low1.wav"] == 4000


def test_what_has_not_changed_is_not_written_again(clips, tmp_path):
    """The folder of manifests may be somebody else's, and read-only."""
    open_task(clips, tmp_path)
    for path in (tmp_path / "data/manifests").iterdir():
        os.utime(path, (0, 0))
    open_task(clips, tmp_path)
    assert {path.stat().st_mtime for path in (tmp_path / "data/manifests").iterdir()} == {0}


def test_a_file_that_comes_back_is_read(clips, tmp_path):
    path = clips.root / "test/low1.wav"
    content = path.read_bytes()
    path.unlink()
    assert open_task(clips, tmp_path).missing.file.tolist() == ["test/low1.wav"]
    path.write_bytes(content)
    assert not open_task(clips, tmp_path).partial


def damage_json(head, table, stamps):
    head.write_text(head.read_text()[:20])


def another_json(head, table, stamps):
    head.write_text("[]")


def poor_json(head, table, stamps):
    content = json.loads(head.read_text())
    del content["sha256"]
    head.write_text(json.dumps(content))


def damage_table(head, table, stamps):
    table.write_bytes(table.read_bytes().replace(b"high", b"higl", 1))


def empty_stamps(head, table, stamps):
    stamps.write_bytes(b"")


def short_stamps(head, table, stamps):
    np.save(stamps, np.zeros((3, 2), np.int64))


def no_table(head, table, stamps):
    table.unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_json, another_json, poor_json, damage_table, empty_stamps, short_stamps, no_table],
)
def test_a_damaged_manifest_is_built_anew(damage, clips, tmp_path, looked_at):
    before = open_task(clips, tmp_path)
    base = tmp_path / "data/manifests"
    damage(base / "kept.json", base / "kept.csv", base / "kept.stamps.npy")
    looked_at.clear()
    after = open_task(clips, tmp_path)
    assert after.sha256 == before.sha256
    assert len(looked_at) == 24
    assert open_task(clips, tmp_path).table.equals(after.table)


def test_what_is_saved_is_what_is_loaded(clips, tmp_path):
    (clips.root / "test/low0.wav").unlink()
    (clips.root / "test/low1.wav").write_bytes(b"")
    clips.listed("test/high0.wav")[1] = "high"
    built = open_task(clips, tmp_path)
    loaded = open_task(clips, tmp_path)
    assert built.table.astype(str).equals(loaded.table.astype(str))
    assert built.sha256 == loaded.sha256
    assert (len(loaded.good), len(loaded.missing), len(loaded.bad)) == (22, 1, 1)


def test_a_new_version_of_a_task_is_indexed_anew(clips, tmp_path):
    manifest = build(clips)
    manifests.save(manifest, tmp_path / "data")
    assert manifests.load(manifest.task, tmp_path / "data") is not None
    assert manifests.load(replace(manifest.task, version="2"), tmp_path / "data") is None


# --- published data sets in miniature


def esc50(root, sound, folds=5, per_fold=2):
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, folds + 1):
        for i in range(per_fold):
            name = f"{fold}-10{fold}{i:03d}-A-{i % 50}.wav"
            lines.append(f"{name},{fold},{i % 50},class_{i % 50},False,10{fold}{i:03d},A")
            sound(root / "audio" / name, samples=np.full(8, (fold + i) / 5e3), rate=44100)
    (root / "meta").mkdir(parents=True)
    (root / "meta/esc50.csv").write_text("\n".join(lines) + "\n")


def us8k(root, sound, folds=10):
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in range(1, folds + 1):
        for i, label in enumerate(("dog_bark", "siren")):
            name = f"{fold}{i}032-{i}-0-0.wav"
            lines.append(f"{name},{fold}{i}032,0.0,0.3,1,{fold},{i},{label}")
            sound(root / f"audio/fold{fold}" / name, seed=10 * fold + i, rate=22050)
    (root / "metadata").mkdir(parents=True)
    (root / "metadata/UrbanSound8K.csv").write_text("\n".join(lines) + "\n")


def spcv2(root, sound):
    split = {"valid": "1a", "test": "2b", "train": "3c"}
    listed = {side: [] for side in split}
    for word in ("yes", "no"):
        for side, speaker in split.items():
            for take in range(2):
                file = f"{word}/{speaker}_nohash_{take}.wav"
                listed[side].append(file)
                sound(root / file, hertz=500 + 10 * take)
    sound(root / "_background_noise_/running_tap.wav")
    for name, side in (("validation", "valid"), ("testing", "test")):
        (root / f"{name}_list.txt").write_text("\n".join(listed[side]) + "\n")


@pytest.mark.parametrize("parents", ["", "ESC-50-master", "downloads/ESC-50-master"])
def test_esc50_as_it_unpacks(parents, sound, tmp_path, command):
    esc50(tmp_path / "unpacked" / parents, sound)
    ran = command("prepare", "esc50", f"--source={tmp_path / 'unpacked'}", "--quiet")
    assert ran.code == 0, ran.err
    assert "fold 1: 2, fold 2: 2, fold 3: 2, fold 4: 2, fold 5: 2" in ran.out
    assert (
        "NOT COMPLETE: 10 of 2,000 clips, meta/esc50.csv altered; scores need --partial" in ran.out
    )


def test_a_whole_esc50_lacks_nothing_but_the_published_table(sound, tmp_path, command):
    esc50(tmp_path / "esc", sound, per_fold=400)
    ran = command("prepare", "esc50", f"--source={tmp_path / 'esc'}", "--quiet")
    assert "fold 5: 400" in ran.out
    assert "NOT COMPLETE: meta/esc50.csv altered" in ran.out
    assert command("prepare", "esc50", "--quiet").out == ran.out  # where it was last time


def test_several_copies_are_not_guessed_between(sound, tmp_path, command, refused):
    for name in ("a", "b"):
        esc50(tmp_path / "all" / name, sound)
    ran = command("prepare", "esc50", f"--source={tmp_path / 'all'}", "--quiet")
    refused(ran, "several copies", str(tmp_path / "all/a"))


def test_us8k_in_ten_folds(sound, tmp_path):
    us8k(tmp_path, sound)
    manifest = indexing.build(tasks.get("us8k"), tmp_path)
    assert manifest.counts() == dict.fromkeys(map(str, range(1, 11)), 2)
    assert manifest.partial.startswith("20 of 8,732 clips")
    assert manifest.table.file[0] == "audio/fold1/10032-0-0-0.wav"
    assert manifest.table.group[0] == "10032"


def test_us8k_with_an_eleventh_fold_is_refused(sound, tmp_path, command, refused):
    us8k(tmp_path / "u", sound, folds=11)
    ran = command("prepare", "us8k", f"--source={tmp_path / 'u'}", "--quiet")
    refused(ran, "UrbanSound8K.csv", "audio/fold11/", "fold other than 1, 2")


def test_speech_commands_by_their_lists(sound, tmp_path):
    spcv2(tmp_path, sound)
    manifest = indexing.build(tasks.get("spcv2"), tmp_path)
    assert manifest.counts() == {"train": 4, "valid": 4, "test": 4}
    assert set(manifest.table.label) == {"yes", "no"}
    assert set(manifest.table.group[manifest.table.split == "train"]) == {"3c"}
    assert not manifest.table.file.str.contains("background").any()


def test_a_listed_speech_command_that_is_not_there_is_missing(sound, tmp_path):
    spcv2(tmp_path, sound)
    (tmp_path / "yes/2b_nohash_0.wav").unlink()
    manifest = indexing.build(tasks.get("spcv2"), tmp_path)
    assert manifest.missing.file.tolist() == ["yes/2b_nohash_0.wav"]


def test_a_speaker_on_both_sides_is_refused(sound, tmp_path):
    spcv2(tmp_path, sound)
    sound(tmp_path / "yes/2b_nohash_7.wav")  # in no list: for training, by a test speaker
    with pytest.raises(UserError, match="2b.*speaker on both sides"):
        indexing.build(tasks.get("spcv2"), tmp_path)


def test_a_partial_published_set_is_scored_only_on_request(
    sound, tmp_path, command, lineareval, refused
):
    us8k(tmp_path / "u", sound)
    command("prepare", "us8k", f"--source={tmp_path / 'u'}", "--quiet")
    refused(lineareval("logmel", "us8k"), "us8k", "20 of 8,732 clips", "--partial")
    ran = lineareval("logmel", "us8k", "--partial", "--seeds=1")  # and the manifest is found again
    assert ran.code == 0, ran.err
    assert "[partial: 20 of 8,732 clips, metadata/UrbanSound8K.csv altered]" in ran.out


def test_prepare_reads_corrected_metadata(sound, tmp_path, command):
    us8k(tmp_path / "u", sound)
    first = command("prepare", "us8k", f"--source={tmp_path / 'u'}", "--quiet").out
    table = tmp_path / "u/metadata/UrbanSound8K.csv"
    table.write_text(table.read_text().replace(",siren", ",engine_idling"))
    assert command("prepare", "us8k", "--quiet").out != first


def test_copies_within_a_published_set_stay(sound, tmp_path):
    """Papers score them; refusing them would make another task of it."""
    us8k(tmp_path, sound)
    shutil.copy(tmp_path / "audio/fold1/10032-0-0-0.wav", tmp_path / "audio/fold2/20032-0-0-0.wav")
    assert len(indexing.build(tasks.get("us8k"), tmp_path).good) == 20


def test_the_bundled_set_is_complete():
    task = tasks.get("demo")
    manifest = indexing.build(task, task.bundled)
    assert not manifest.partial
    assert manifest.bad.empty
    assert len(label_set(manifest.table.label)) == task.classes
