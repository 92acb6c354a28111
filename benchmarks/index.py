"""How long indexing a large data set takes: `python benchmarks/index.py [--files=300000]`.

Makes a set shaped like NSynth (one JSON a split, many short WAV files), indexes it twice with
`prepare.py` in processes of their own, and prints seconds and peak memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent


def make_set(root: Path, files: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    shares = {"train": files - 2 * (files // 50), "valid": files // 50, "test": files // 50}
    for split, count in shares.items():
        folder = root / f"nsynth-{split}" / "audio"
        folder.mkdir(parents=True)
        notes = {}
        for i in range(count):
            note = f"bass_synthetic_{i:06d}-{i % 88:03d}-100"
            sound = 0.1 * rng.standard_normal(int(16000 * seconds))
            soundfile.write(folder / f"{note}.wav", sound, 16000)
            notes[note] = {
                "note_str": note,
                "instrument_str": f"{split}_{note[:21]}",
                "instrument_family_str": ("bass", "flute")[i % 2],
                "pitch": i % 88,
                "velocity": 100,
                "qualities": [0] * 10,
                "qualities_str": [],
                "sample_rate": 16000,
            }
        (folder.parent / "examples.json").write_text(json.dumps(notes))


def run(source: Path, data: Path) -> tuple[float, float]:
    """One `prepare.py nsynth`: (seconds, peak MB)."""
    command = [sys.executable, str(ROOT / "prepare.py"), "nsynth", f"--source={source}"]
    started = time.perf_counter()
    with subprocess.Popen([*command, f"--data={data}", "--quiet"], stdout=subprocess.DEVNULL) as p:
        _, status, usage = os.wait4(p.pid, 0)
    if status:
        raise SystemExit("prepare.py failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main(*, files: int = 300_000, seconds: float = 0.05) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        source, data = Path(folder) / "nsynth", Path(folder) / "data"
        make_set(source, files, seconds)
        for what in ("first time", "again, nothing changed"):
            took, peak = run(source, data)
            print(f"{files:,} files, {what}: {took:.1f} s, {peak:.0f} MB peak")


if __name__ == "__main__":
    import fire

    fire.Fire(main)
