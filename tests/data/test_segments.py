"""Rows of a table that are parts of recordings."""

import numpy as np
import pandas as pd
import pytest
import soundfile

import evar
from evar.data import audio, indexing, manifests
from evar.errors import UserError
from evar.task import Task

RATE = 16_000


def recording(path, tones, *, seed=0):
    """Writes a second of each tone (Hz), one after the other."""
    time = np.arange(RATE) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(tones) * RATE)
    samples = np.concatenate([0.3 * np.sin(2 * np.pi * hertz * time) for hertz in tones])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples + 0.01 * noise, RATE)


def table(rows):
    columns = ["file", "start", "end", "label", "split", "group"]
    return pd.DataFrame([(*row, row[0]) for row in rows], columns=columns)


def task_of(given, root, **more):
    return Task(
        **{
            "name": "own",
            "version": "1",
            "title": "own",
            "metadata": "own.csv",
            "read": lambda _: given,
            "marker": ".",
            "seconds": 1.0,
            "group": "recording",
            "bundled": root,
            **more,
        }
    )


NAN = float("nan")
ROWS = [
    ("a.wav", 0.0, 1.0, "low", "train"),
    ("a.wav", 1.0, 2.0, "high", "train"),
    ("a.wav", 2.25, 2.75, "low", "train"),
    ("b.wav", NAN, 1.0, "low", "train"),
    ("b.wav", 1.0, NAN, "high", "train"),
    ("c.wav", 0.0, 1.0, "low", "test"),
    ("c.wav", 1.0, 2.0, "high", "test"),
    ("d.wav", NAN, NAN, "high", "test"),
]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "sounds"
    for seed, (name, tones) in enumerate(
        {"a": (200, 3000, 250), "b": (220, 2800), "c": (210, 3100), "d": (2900,)}.items()
    ):
        recording(folder / f"{name}.wav", tones, seed=seed)
    return folder


def build(rows, root, **more):
    return indexing.build(task_of(table(rows), root, **more), root)


def test_segments_are_rows_with_their_own_length(root):
    made = build(ROWS, root)
    assert made.clips.tolist() == [
        "a.wav#t=0,1",
        "a.wav#t=1,2",
        "a.wav#t=2.25,2.75",
        "b.wav#t=0,1",
        "b.wav#t=1",
        "c.wav#t=0,1",
        "c.wav#t=1,2",
        "d.wav",
    ]
    assert made.table.frames.tolist() == [RATE, RATE, RATE // 2, *[RATE] * 5]
    assert made.table.file_frames.tolist() == [3 * RATE] * 3 + [2 * RATE] * 4 + [RATE]
    assert made.span(2) == (2 * RATE + RATE // 4, 2 * RATE + 3 * RATE // 4)
    assert made.span(7) is None


def test_the_order_of_rows_does_not_matter(root):
    assert build(ROWS[::-1], root).sha256 == build(ROWS, root).sha256


@pytest.mark.parametrize("at", [1, 2])
def test_other_times_are_another_manifest(at, root):
    rows = [list(row) for row in ROWS]
    rows[2][at] += 0.125
    assert build(rows, root).sha256 != build(ROWS, root).sha256


def test_times_without_a_segment_leave_the_manifest_as_it_is(root):
    rows = [(row[0], NAN, NAN, *row[3:]) for row in (ROWS[0], ROWS[4], ROWS[5], ROWS[7])]
    plain = table(rows).drop(columns=["start", "end"])
    expected = indexing.build(task_of(plain, root), root)
    for given in (table(rows), table(rows).assign(start="", end=""), table(rows).assign(start=0)):
        made = indexing.build(task_of(given, root), root)
        assert made.sha256 == expected.sha256
        assert list(made.table) == list(expected.table)


def test_a_saved_manifest_comes_back_and_no_file_is_read_again(root, tmp_path, monkeypatch):
    rows = [*ROWS, ("d.wav", 0.1, 0.1 + 0.2, "low", "test")]
    task = task_of(table(rows[:-2] + rows[-1:]), root)
    first = manifests.open_task(task, tmp_path / "data", source=root)
    again = manifests.load(task, tmp_path / "data")
    pd.testing.assert_frame_equal(again.table, first.table, check_dtype=False)
    read = []
    monkeypatch.setattr(audio, "read_header", read.append)
    rebuilt = manifests.open_task(task, tmp_path / "data", source=root, reindex=True)
    assert (rebuilt.sha256, read) == (first.sha256, [])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("a.wav", 2.5, 3.5), r"row 3: a.wav: 2.5 to 3.5 s is beyond the file's end, at 3.000 s"),
        (("a.wav", 3.0, NAN), r"row 3: a.wav: from 3 s on is beyond the file's end, at 3.000 s"),
        (("a.wav", -1.0, 1.0), r"row 3: a.wav: its start is not a time in the file \(-1 to 1 s\)"),
        (("a.wav", 2.5, 2.5), r"row 3: a.wav: its end is not behind its start \(2.5 to 2.5 s\)"),
        (("a.wav", "x", 2.5), r"row 3: a.wav: start 'x' is no number of seconds"),
        (("a.wav", 0.0, 1.0), r"a.wav#t=0,1: listed more than once"),
    ],
)
def test_impossible_segments_are_named(row, said, root):
    rows = [*ROWS[1::-1], (*row, "low", "train"), *ROWS[3:]]
    with pytest.raises(UserError, match=rf"own.csv: {said}"):
        build(rows, root)


def test_an_end_that_a_tool_has_rounded_is_the_end_of_the_file(root):
    rows = [*ROWS[:2], ("a.wav", 2.25, 3.004, "low", "train"), *ROWS[3:]]
    assert build(rows, root).table.frames[2] == 3 * RATE // 4


def test_one_recording_on_both_sides_is_a_leak(root):
    rows = [*ROWS[:2], ("a.wav", 2.25, 2.75, "low", "test"), *ROWS[3:]]
    with pytest.raises(UserError, match="recording on both sides"):
        build(rows, root)


@pytest.mark.parametrize("begin", [0.5, 1.5, 1.999])
def test_segments_that_overlap_on_both_sides_are_a_leak_under_any_name(begin, root):
    (root / "copy.wav").write_bytes((root / "a.wav").read_bytes())
    rows = [*ROWS, ("copy.wav", begin, begin + 0.5, "low", "test")]
    with pytest.raises(UserError, match=r"a.wav#t=\d,\d and copy.wav#t=\S+ overlap"):
        indexing.build(task_of(table(rows).assign(group=""), root), root)


def test_segments_side_by_side_may_be_on_both_sides_where_that_is_asked_for(root):
    rows = [*ROWS[:2], ("a.wav", 2.0, 3.0, "low", "test"), *ROWS[3:]]
    made = indexing.build(task_of(table(rows).assign(group=""), root), root)
    assert len(made.good) == len(rows)


def test_the_same_sound_in_another_recording_is_a_leak(root):
    samples, _ = soundfile.read(root / "a.wav")
    soundfile.write(root / "e.flac", samples[RATE // 2 : 2 * RATE], RATE)
    rows = [*ROWS, ("e.flac", 0.5, 1.5, "high", "test")]
    with pytest.raises(UserError, match=r"a.wav#t=1,2 and e.flac#t=0.5,1.5 are the same sound"):
        build(rows, root)


def test_missing_and_damaged_recordings_are_named_once_for_all_segments(root):
    (root / "b.wav").write_bytes(b"no sound at all")
    rows = [*ROWS, ("gone.wav", 0.0, 1.0, "low", "train"), ("gone.wav", 1.0, 2.0, "low", "train")]
    made = build(rows, root)
    assert made.missing.file.tolist() == ["gone.wav"] * 2
    assert made.bad.file.tolist() == ["b.wav"] * 2
    with pytest.raises(UserError, match=r"looked for gone.wav in "):
        made.require_usable()


def test_a_run_on_segments_is_the_run_on_the_same_clips_cut_into_files(root, tmp_path):
    """Embeddings, scores and predictions; the clips' names say where they are."""
    cut = tmp_path / "cut"
    rows = []
    for file, start, end, label, split in ROWS:
        samples, _ = soundfile.read(root / file, dtype="int16")
        first = 0 if np.isnan(start) else round(start * RATE)
        last = len(samples) if np.isnan(end) else round(end * RATE)
        name = f"{file[0]}{first:06d}.wav"
        cut.mkdir(exist_ok=True)
        soundfile.write(cut / name, samples[first:last], RATE)
        rows.append((name, NAN, NAN, label, split))
    how = {"device": "cpu", "seeds": 2, "cache": tmp_path / "cache"}
    files = table(rows).assign(group=[row[0] for row in ROWS]).drop(columns=["start", "end"])
    of_files = evar.evaluate("logmel", task_of(files, cut), **how)
    of_segments = evar.evaluate("logmel", task_of(table(ROWS), root), **how)
    same = ["true", "predicted", "score", "seed"]
    pd.testing.assert_frame_equal(of_segments.predictions[same], of_files.predictions[same])
    assert of_segments.predictions["clip"].tolist()[:3] == ["c.wav#t=0,1", "c.wav#t=1,2", "d.wav"]
    assert of_segments.record.id != of_files.record.id
    assert of_segments.record.score.test_groups == 2  # recordings, not segments


def test_random_crops_of_segments_lie_within_them_and_differ(root):
    from evar.embedding import embeddings

    made = build(ROWS, root, seconds=0.25)
    plan = embeddings.views(made, sample_rate=RATE, crop_seed=42)
    starts = [view.start for view in plan if view.start]
    assert len(set(starts)) == len(starts) == 5


def test_finetuning_reads_the_segment(root):
    from evar.finetuning.waveforms import Waveforms

    made = build(ROWS, root)
    whole, _ = audio.decode(root / "a.wav")
    unit = Waveforms(made, RATE).load(2)
    np.testing.assert_array_equal(unit[: RATE // 2], whole[36_000:44_000])
    assert not unit[RATE // 2 :].any()
