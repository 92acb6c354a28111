"""Small copies of every data set in its published layout: folders, tables, formats, rates.

Each function fills a folder and returns how many clips a reader must find on each side. The sounds
are short bursts of noise, different in every file.
"""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

_RNG = np.random.default_rng(0)


def sound(path: Path, rate: int, seconds: float = 0.2, *, channels: int = 1, subtype=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (int(rate * seconds), channels)
    soundfile.write(path, 0.1 * _RNG.standard_normal(shape), rate, subtype=subtype)


def table(path: Path, head: list[str], rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def esc50(root: Path):
    root = root / "ESC-50-master"
    rows = []
    for fold in range(1, 6):
        for target, category in ((0, "dog"), (1, "rooster"), (2, "pouring_water")):
            name = f"{fold}-{1000 * fold + target}-A-{target}.wav"
            sound(root / "audio" / name, 44100)
            rows.append((name, fold, target, category, "False", 1000 * fold + target, "A"))
    head = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    table(root / "meta/esc50.csv", head, rows)
    return dict.fromkeys("12345", 3)


def us8k(root: Path):
    root = root / "UrbanSound8K"
    rows = []
    formats = [
        (44100, 1, "PCM_16"),
        (48000, 2, "PCM_24"),
        (22050, 1, "FLOAT"),
        (96000, 2, "PCM_32"),
    ]
    for fold in range(1, 11):
        for class_id, label in enumerate(("air_conditioner", "car_horn")):
            rate, channels, subtype = formats[(fold + class_id) % 4]
            name = f"{100 * fold + class_id}-{class_id}-0-0.wav"
            sound(root / f"audio/fold{fold}/{name}", rate, channels=channels, subtype=subtype)
            rows.append((name, 100 * fold + class_id, 0, 0.2, 1, fold, class_id, label))
    head = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
    table(root / "metadata/UrbanSound8K.csv", head, rows)
    return {str(fold): 2 for fold in range(1, 11)}


def _speech_commands(root: Path):
    valid, test = [], []
    for word in ("yes", "no"):
        for speaker in range(6):
            for take in range(2):
                name = f"{word}/{speaker:08x}_nohash_{take}.wav"
                sound(root / name, 16000)
                if speaker >= 4:
                    (valid if speaker == 4 else test).append(name)
    (root / "validation_list.txt").write_text("\n".join(valid) + "\n")
    (root / "testing_list.txt").write_text("\n".join(test) + "\n")
    sound(root / "_background_noise_/white_noise.wav", 16000)
    return {"train": 16, "valid": 4, "test": 4}


def spcv2(root: Path):
    return _speech_commands(root / "speech_commands_v0.02")


def spcv1(root: Path):
    return _speech_commands(root / "speech_commands_v0.01")


def vc1(root: Path):
    root = root / "vox1"
    lines = []
    for speaker in ("id10001", "id10270"):
        for side in (1, 1, 2, 3):
            name = f"{speaker}/1zcIwhmdeo4/{len(lines):05d}.wav"
            sound(root / "wav" / name, 16000)
            lines.append(f"{side} {name}")
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")
    return {"train": 4, "valid": 2, "test": 2}


def voxforge(root: Path):
    root = root / "VoxForge"
    rows = []
    for label in ("de", "ru"):
        for i, split in enumerate(("train", "train", "valid", "test")):
            name = f"anna{label}-2012010{i}-abc/wav/{label}-{i:04d}.wav"
            sound(root / name, 16000)
            rows.append((name, label, split))
    table(root / "voxforge.csv", ["file_name", "label", "split"], rows)
    return {"train": 4, "valid": 2, "test": 2}


def cremad(root: Path):
    root = root / "CREMA-D-master"
    for actor in (1002, 1003, 1009, 1001):
        for emotion in ("ANG", "SAD"):
            sound(root / f"AudioWAV/{actor}_DFA_{emotion}_XX.wav", 16000)
    sound(root / "AudioWAV/1006_TIE_NEU_XX.wav", 16000)  # one of the four that are left out
    rows = [(actor, 30, ("Female", "Male")[actor % 2], "", "") for actor in range(1001, 1092)]
    rows[8] = (1009, 30, "Male", "", "")
    table(root / "VideoDemographics.csv", ["ActorID", "Age", "Sex", "Race", "Ethnicity"], rows)
    return {"train": 4, "valid": 2, "test": 2}


cremad_gender = cremad


def gtzan(root: Path):
    from evar.tasks.gtzan import lists

    root = root / "genres"
    for number, names in enumerate(lists().values()):
        for genre in ("blues", "jazz"):
            for name in [n for n in names if n.startswith(genre)][:2]:
                ending = "au" if number == 1 else "wav"
                sound(root / genre / f"{name}.{ending}", 22050)
    return {"train": 4, "valid": 4, "test": 4}


def nsynth(root: Path):
    root = root / "NSynth"
    number = 0
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        notes = {}
        for i in range(count):
            family = ("bass", "flute")[i % 2]
            instrument = f"{family}_acoustic_{number:03d}"
            pitch, velocity = (36, 60)[i % 2], (25, 127)[i % 2]
            note = f"{instrument}-{pitch:03d}-{velocity:03d}"
            number += 1
            sound(root / f"nsynth-{split}/audio/{note}.wav", 16000)
            notes[note] = {
                "note_str": note,
                "pitch": pitch,
                "velocity": velocity,
                "instrument_str": instrument,
                "instrument_family_str": family,
                "sample_rate": 16000,
                "qualities": [0, 1],
                "qualities_str": ["dark"],
            }
        path = root / f"nsynth-{split}/examples.json"
        path.write_text(json.dumps(notes))
    return {"train": 4, "valid": 2, "test": 2}


nspitch = nsvelocity = nsynth


def surge(root: Path):
    """Fewer tones than published: the reader refuses them (the split counts in their order)."""
    for tone in ("bass velocity64", "pad velocity64"):
        for note in (21, 108):
            sound(root / "Surge" / tone / f"{note}.ogg", 44100)
    return None


def _audioset(root: Path, lists):
    root = root / "AudioSet"
    head = "# Segments csv\n# num_ytids=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
    for name, count in lists.items():
        lines = []
        for i in range(count):
            ytid = f"{name[0]}-_{i:08d}"
            labels = ("/m/05r6t", "/m/04rlf,/m/05r6t", "/m/04rlf")[i % 3]
            lines.append(f'{ytid}, 30.000, 40.000, "{labels}"')
            sound(root / name / f"{i % 2:02d}" / f"{ytid}_30.000.wav", 48000)
        lines.append('absent-----, 0.000, 10.000, "/m/04rlf"')  # nobody could get this one
        (root / f"{name}.csv").write_text(head + "\n".join(lines) + "\n")
    rows = [(0, "/m/04rlf", "Music"), (1, "/m/05r6t", "Speech, or so")]
    table(root / "class_labels_indices.csv", ["index", "mid", "display_name"], rows)


def as20k(root: Path):
    _audioset(root, {"balanced_train_segments": 6, "eval_segments": 3})
    return {"train": 6, "test": 3}


def as_(root: Path):
    lists = {"balanced_train_segments": 3, "unbalanced_train_segments": 4, "eval_segments": 3}
    _audioset(root, lists)
    return {"train": 7, "test": 3}


def fsd50k(root: Path):
    root = root / "FSD50K"
    dev = [
        (i, ("Bark,Animal", "Rain", "Animal")[i % 3], "/m", "val" if i > 5 else "train")
        for i in range(8)
    ]
    test = [(100 + i, ("Bark,Animal", "Rain")[i % 2], "/m") for i in range(4)]
    for kind, rows in (("dev", dev), ("eval", test)):
        for row in rows:
            sound(root / f"FSD50K.{kind}_audio/{row[0]}.wav", 44100)
    truth = root / "FSD50K.ground_truth"
    table(truth / "dev.csv", ["fname", "labels", "mids", "split"], dev)
    table(truth / "eval.csv", ["fname", "labels", "mids"], test)
    return {"train": 6, "valid": 2, "test": 4}


def fsdnoisy18k(root: Path):
    root = root / "FSDnoisy18k"
    labels = ("Acoustic_guitar", "Rain")
    train = [(f"{i}.wav", labels[i % 2], "/m", 0, 0) for i in range(20)]
    test = [(f"{100 + i}.wav", labels[i % 2], "/m") for i in range(4)]
    for kind, rows in (("train", train), ("test", test)):
        for row in rows:
            sound(root / f"FSDnoisy18k.audio_{kind}/{row[0]}", 44100)
    meta = root / "FSDnoisy18k.meta"
    table(
        meta / "train.csv", ["fname", "label", "aso_id", "manually_verified", "noisy_small"], train
    )
    table(meta / "test.csv", ["fname", "label", "aso_id"], test)
    return {"train": 18, "valid": 2, "test": 4}


def vocalsound(root: Path):
    root = root / "vs_release_16k"
    for speaker, (name, sounds) in enumerate({"tr": 2, "val": 1, "te": 1}.items()):
        entries = []
        for i in range(sounds):
            for label in ("cough", "throatclearing"):
                clip = f"m{speaker:04d}_{i}_{label}.wav"
                sound(root / "audio_16k" / clip, 16000)
                entries.append({"wav": f"/data/somewhere/audio_16k/{clip}", "labels": "/m/01"})
        path = root / f"datafiles/{name}{'_rev' if name == 'val' else ''}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"data": entries}))
    return {"train": 4, "valid": 2, "test": 2}


def clotho(root: Path):
    root = root / "Clotho"
    for side in ("development", "validation", "evaluation"):
        names = [f"A {side} sound {i}.wav" for i in range(2)]
        for name in names:
            sound(root / side / name, 44100)
        head = ["file_name", *(f"caption_{i}" for i in range(1, 6))]
        rows = [(name, *(f"caption {i} of it, indeed." for i in range(5))) for name in names]
        table(root / f"clotho_captions_{side}.csv", head, rows)
    return {"train": 2, "valid": 2, "test": 2}


def audiocaps(root: Path):
    root = root / "AudioCaps"
    for side, captions in (("train", 1), ("val", 5), ("test", 5)):
        rows = []
        for i in range(2):
            sound(root / side / f"Y{side}{i:07d}.wav", 32000)
            rows += [(9 * i + k, f"{side}{i:07d}", 30, f"Rain falls {k}") for k in range(captions)]
        table(root / f"{side}.csv", ["audiocap_id", "youtube_id", "start_time", "caption"], rows)
    return {"train": 2, "valid": 2, "test": 2}


MAKERS = {
    maker.__name__.rstrip("_"): maker
    for maker in (
        *(esc50, us8k, spcv1, spcv2, vc1, voxforge, cremad, gtzan, nsynth, surge),
        *(as20k, as_, fsd50k, fsdnoisy18k, vocalsound, clotho, audiocaps),
    )
} | {"cremad_gender": cremad, "nspitch": nsynth, "nsvelocity": nsynth}
