"""Files that are hashed as they are decoded: the manifest is the same in the end, or refused."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evar import run
from evar.data import audio, indexing, manifests, opening, own_sounds, stamps, unhashed
from evar.errors import UserError


@pytest.fixture
def uneven(new_clips):
    """Sixteen clips, each of a length of its own."""
    made = new_clips()
    for i in range(16):
        side = ("train", "train", "valid", "test")[i // 2 % 4]
        made.add(f"{i}.wav", ("low", "high")[i % 2], side, seconds=0.1 + i / 1000)
    return made


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files whose content was hashed."""
    found, fingerprint = [], audio.fingerprint

    def counting(path):
        found.append(Path(path).name)
        return fingerprint(path)

    monkeypatch.setattr(audio, "fingerprint", counting)
    return found


def opened(csv, below=None, **how):
    return opening.open_task(csv, data="data", hashed_below=below, **how)


def test_headers_are_read_and_in_the_end_the_manifest_is_the_usual_one(uneven, hashed):
    later = opened(uneven.csv, 0)
    assert not hashed
    assert later.table.fingerprint.str.startswith("~").all()
    assert later.unhashed.bytes == sum(path.stat().st_size for path in uneven.root.glob("*.wav"))
    complete = later.hashed()
    assert sorted(hashed) == sorted(later.table.file)
    usual = opening.open_task(uneven.csv, data="other")
    assert complete.sha256 == usual.sha256 != later.sha256
    pd.testing.assert_frame_equal(complete.table, usual.table)
    assert complete.unhashed is usual.unhashed is None
    assert complete.hashed() is complete


def test_a_set_that_stays_in_memory_is_hashed_at_once(uneven, hashed):
    size = sum(path.stat().st_size for path in uneven.root.glob("*.wav"))
    assert opened(uneven.csv, size).unhashed is None
    assert len(hashed) == 16


def test_only_new_files_count(uneven, hashed):
    opened(uneven.csv)
    uneven.add("new.wav", "low", "train", seconds=0.5)
    found = opened(uneven.csv, 0)
    assert list(found.table.file[found.table.fingerprint.str.startswith("~")]) == ["new.wav"]
    hashed.clear()
    assert found.hashed().sha256 == opening.open_task(uneven.csv, data="other").sha256
    assert hashed[0] == "new.wav"


def test_placeholders_that_were_kept_are_replaced_for_those_who_need_fingerprints(uneven, hashed):
    opened(uneven.csv, 0)
    again = opened(uneven.csv, 0)
    assert again.unhashed
    assert not hashed
    usual = opened(uneven.csv)
    assert usual.unhashed is None
    assert len(hashed) == 16
    assert opened(uneven.csv).sha256 == usual.sha256 == opened(uneven.csv, 0).sha256
    assert len(hashed) == 16, "the complete manifest was kept"


def test_placeholders_name_files_as_they_are(uneven):
    before = opened(uneven.csv, 0)
    assert opened(uneven.csv, 0, reindex=True).sha256 == before.sha256
    os.utime(uneven.root / "3.wav", ns=(0, 1))
    after = opened(uneven.csv, 0)
    changed = before.table.fingerprint.to_numpy() != after.table.fingerprint.to_numpy()
    assert list(after.table.file[changed]) == ["3.wav"]


def test_placeholders_of_two_sets_differ_where_their_stamps_do_not(uneven, new_clips, monkeypatch):
    """As those of clean and noisy sounds that were written to a disk that counts seconds."""
    monkeypatch.setattr(stamps, "stamp_of", lambda status: (status.st_size, 1, 1))
    noisy = new_clips("noisy")
    noisy.root.mkdir(parents=True, exist_ok=True)
    for row in uneven.rows:
        noisy.rows.append(row)
        content = (uneven.root / row[0]).read_bytes()
        (noisy.root / row[0]).write_bytes(content[:-2] + b"ab")
    assert opened(uneven.csv, 0).sha256 != opened(noisy.csv, 0).sha256


def test_files_of_one_size_are_hashed_since_they_may_be_copies(uneven, hashed):
    content = (uneven.root / "0.wav").read_bytes()
    uneven.rows.append(["copy.wav", "low", "test"])
    (uneven.root / "copy.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"0\.wav and copy\.wav are the same sound"):
        opened(uneven.csv, 0)
    (uneven.root / "copy.wav").write_bytes(content[:-1] + b"\x17")
    hashed.clear()
    assert len(opened(uneven.csv, 0).unhashed.fingerprints(opened(uneven.csv, 0).table)) == 17
    assert sorted(hashed)[:2] == ["0.wav", "1.wav"]


def test_a_published_set_has_the_clips_that_it_has(uneven, hashed):
    """Copies are not looked for there, so that equal sizes do not matter."""
    for i in range(16):
        (uneven.root / f"{i}.wav").write_bytes((uneven.root / f"{i % 2}.wav").read_bytes())
    task = own_sounds.task_from_csv(uneven.csv)
    task = replace(task, counts={"train": 8, "valid": 4, "test": 4})
    assert len(indexing.build(task, uneven.root, hashed_below=0).table) == 16
    assert not hashed


def test_a_file_that_changes_meanwhile_is_refused(uneven):
    later = opened(uneven.csv, 0)
    uneven.add("5.wav", "high", "valid", seconds=0.3)
    with pytest.raises(UserError, match=r"5\.wav: changed while the data set was being read"):
        later.hashed()
    with (
        pytest.raises(UserError, match=r"6\.wav: changed"),
        later.unhashed.hashing("6.wav"),
    ):
        uneven.add("6.wav", "high", "valid", seconds=0.3)
    assert not later.unhashed.known(["6.wav"])


def test_a_file_that_vanishes_meanwhile_is_named(uneven):
    later = opened(uneven.csv, 0)
    (uneven.root / "5.wav").unlink()
    with pytest.raises(UserError, match=r"5\.wav"):
        later.hashed()


def test_threads_that_decode_parts_of_one_file_hash_it_once(uneven, monkeypatch):
    later, calls = opened(uneven.csv, 0), []
    entered = threading.Barrier(2, timeout=0.2)

    def slow(path):
        calls.append(path)
        try:
            entered.wait()  # another thread in here would let it pass
        except threading.BrokenBarrierError:
            return "0" * 16
        raise AssertionError("two threads hash a file")

    monkeypatch.setattr(audio, "fingerprint", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: later.unhashed._hash("1.wav"), range(4)))
    assert len(calls) == 1


def test_a_file_that_has_no_mark_is_none_of_these(uneven, hashed):
    with opened(uneven.csv, 0).unhashed.hashing("elsewhere.wav"):
        pass
    assert not hashed


def test_sides_share_what_is_known(uneven, hashed):
    whole = opened(uneven.csv, 0)
    side = whole.test_side()
    assert side.hashed().sha256 == opening.open_task(uneven.csv, data="o").test_side().sha256
    known = set(side.table.file)
    hashed.clear()
    whole.hashed()
    assert known.isdisjoint(hashed)


def test_unreadable_files_are_hashed_as_well(uneven):
    (uneven.root / "7.wav").write_bytes(b"RIFF, or so it says")
    later, usual = opened(uneven.csv, 0), opening.open_task(uneven.csv, data="other")
    assert later.bad.file.tolist() == ["7.wav"]
    assert later.hashed().sha256 == usual.sha256


def test_segments_of_a_file_share_its_fingerprint(new_clips, hashed):
    made = new_clips(columns=("file", "label", "split", "start", "end"))
    for i in range(4):
        side = ("train", "test")[i // 2]
        made.add(f"{i}.wav", "low", side, 0, 0.1, seconds=0.5 + i / 100)
        made.rows.append([f"{i}.wav", "high", side, 0.2, 0.3])
    later = opened(made.csv, 0)
    assert later.unhashed.bytes == sum(path.stat().st_size for path in made.root.glob("*.wav"))
    assert later.hashed().sha256 == opening.open_task(made.csv, data="other").sha256
    assert len(hashed) == 8


def test_packed_sounds_are_hashed_at_once(new_clips, hashed):
    """Their headers are read from the whole of their content, which has been read then."""
    import tarfile

    made = new_clips()
    for i in range(4):
        made.add(
            f"{i}.wav", ("low", "high")[i % 2], ("train", "test")[i // 2], seconds=0.1 + i / 99
        )
    with tarfile.open(made.root / "all.tar", "w") as shard:
        for row in made.rows:
            shard.add(made.root / row[0], row[0])
            row[0] = f"all.tar/{row[0]}"
    assert opened(made.csv, 0).unhashed is None
    assert len(hashed) == 4


def test_provisional_a_set_in_a_folder_that_cannot_be_written_to(uneven):
    later = opened(uneven.csv, 0)

    def refuse(manifest):
        raise UserError("read-only")

    later.unhashed.save = refuse
    assert manifests.hash_all(later).unhashed is None


def test_prepare_says_so_and_hashes_where_it_is_asked_to(uneven, command, monkeypatch, hashed):
    monkeypatch.setattr(run, "hash_limit", lambda: 0)
    ran = command("prepare", uneven.csv, "--quiet", "--data=data")
    assert "GB are hashed as the first evaluation decodes them (--hash: now)" in ran.out
    assert "complete" in ran.out
    assert not hashed
    ran = command("prepare", uneven.csv, "--quiet", "--data=data", "--hash")
    assert f"manifest {opened(uneven.csv).sha256[:16]}" in ran.out
    assert len(hashed) == 16


def test_half_of_the_free_memory_is_the_limit(monkeypatch):
    from evar.embedding import gathering

    monkeypatch.setattr(gathering, "free_memory", lambda: 1001)
    assert run.hash_limit() == 500
    monkeypatch.setattr(gathering, "free_memory", lambda: None)
    assert run.hash_limit() is None


def test_a_mark_is_no_fingerprint():
    made = unhashed.placeholder(Path("a.wav"), np.array([1, 2, 3]))
    assert unhashed.is_placeholder(made)
    assert len(made) == 16
    assert made != unhashed.placeholder(Path("a.wav"), (1, 2, 4))
    assert made != unhashed.placeholder(Path("b.wav"), (1, 2, 3))
    assert not unhashed.is_placeholder("0123456789abcdef")
