"""How the harness scales: `python benchmarks/scale.py [--memory=1.2] [--against=CHECKOUT]`.

Prints one row per case of docs/benchmarks.md, "Many clips": whole processes of `lineareval.py`,
their seconds, CPU seconds, peak memory, and bytes read and written.

- `--small` real clips of 5 s at 44.1 kHz, log-mel: from raw files, and again with another --lr;
- `--many` x 768 and `--wide` x 3,840 embeddings of simulated clips, cached, three probes of three
  epochs. The files are hard links to a few short sounds, their manifest and shards are written by
  this script, so that nothing is decoded and the folder stays small;
- a twentieth of `--many`, for the growth of the peak memory;
- `--many` again in a control group of `--memory` GB (Linux, as root), less than the embeddings take
  with everything else: they are read from disk in blocks.

`--against=DIR` runs every case with another checkout too, in turns on the same files.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import linear
import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
CLASSES, RATE, SOUNDS, LINKS = 50, 16000, 16, 30_000  # ext4 allows 65,000 links to a file
CHECKED = 8  # clips whose embeddings are the adapter's own: cached ones are checked (spot_check)
ADAPTER = """
from evar.adapter import Adapter


class Simulated(Adapter):
    sample_rate = 16000

    def __init__(self, width: int = 768):
        super().__init__()
        self.embed_dim = width

    def embed(self, audio):
        return audio[:, :1].expand(-1, self.embed_dim) + 1
"""


@dataclass(frozen=True)
class Cost:
    """What a process cost: seconds, CPU seconds, peak memory in MB, GB read and written."""

    wall: float
    cpu: float
    peak: float
    read: float
    written: float

    def __str__(self) -> str:
        return (
            f"{self.wall:6.1f} s, CPU {self.cpu:6.1f} s, peak {self.peak:5.0f} MB, "
            f"{self.read:.2f} GB read, {self.written:.2f} GB written"
        )


def cost(command: list[str], environment: dict[str, str] | None = None) -> tuple[Cost, str]:
    """Runs a command; returns its cost and the last line that it printed."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        printed = process.stdout.read().strip().splitlines()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        io = _transferred(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    wall, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    return Cost(wall, cpu, usage.ru_maxrss / 1024, *io), printed[-1] if printed else ""


def _transferred(process: int) -> tuple[float, float]:
    """GB that an ended process read and wrote by system calls (0 where there is no /proc)."""
    try:
        text = Path(f"/proc/{process}/io").read_text()
    except OSError:
        return 0.0, 0.0
    counts = dict(line.split(": ") for line in text.splitlines())
    return int(counts["rchar"]) / 1e9, int(counts["wchar"]) / 1e9


def simulate(folder: Path, clips: int, width: int) -> Path:
    """Makes a CSV of simulated clips with its manifest and its embeddings; returns its path."""
    (folder / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "clips.csv").open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["file", "label", "split"])
        for i in range(clips):
            name, sound = f"audio/{i:07d}.wav", i % SOUNDS + i // LINKS // SOUNDS * SOUNDS
            source = folder / f"sound{sound}.wav"
            if not source.exists():
                noise = 0.1 * rng.standard_normal(RATE // 10)
                soundfile.write(source, noise, RATE, subtype="PCM_16")
            os.link(source, folder / name)
            split = ("train", "valid", "test")[max(0, i % 10 - 7)]
            table.writerow([name, f"class{i // SOUNDS % CLASSES:02d}", split])
    (folder / "adapter.py").write_text(ADAPTER)
    _keep(folder, width, rng)
    return folder / "clips.csv"


def _keep(folder: Path, width: int, rng: np.random.Generator) -> None:
    """Writes the manifest of simulated clips, and shards of noise with a class in it."""
    sys.path.insert(0, str(ROOT))
    from dataclasses import replace

    import pandas as pd

    from evar import models
    from evar.data import indexed_tables, indexing, manifests, own_sounds
    from evar.data.manifest import Manifest, table_hash
    from evar.data.stamps import stamps_of
    from evar.embedding import embeddings
    from evar.embedding.store import Shard
    from evar.runtime import Runtime

    task, origin = indexed_tables.read(folder / "clips.csv", seconds=0.1)
    table = indexing.check_table(task, task.read(folder))
    stamps = stamps_of(folder, list(table.file))
    scanned = {
        "sample_rate": RATE,
        "frames": RATE // 10,
        "bytes": stamps[:, 0],
        "fingerprint": [f"{i:016x}" for i in range(len(table))],  # every clip is another sound
        "problem": "",
    }
    # With a digest of each clip's own no two are taken for copies, so that none is decoded.
    table = pd.concat([table, pd.DataFrame(scanned, index=table.index)], axis=1)
    table["frames"] += np.where(table.split == "train", 0, np.where(table.split == "valid", 1, 2))
    manifest = Manifest(task, folder.resolve(), table, table_hash(table), stamps)
    name = own_sounds.manifest_name(folder / "clips.csv")
    manifests.save(manifest, folder / "data", name=name, origin=origin)
    model = models.load(f"{folder}/adapter.py:Simulated", weights=None, width=width)
    runtime = Runtime(cache=folder / "cache")
    number = table.label.str[-2:].astype(int).to_numpy()
    centres = rng.standard_normal((CLASSES, width), dtype=np.float32)
    manifest = replace(manifest, task=replace(task, seconds=0.1))
    with embeddings.engine_for_task(model, manifest, runtime) as engine:
        for shard in range(engine.shards):
            rows = [engine.plan[v].row for v in engine.views_of(shard)]
            noise = 6 * rng.standard_normal((len(rows), width), dtype=np.float32)
            values = centres[number[rows]] + noise
            if shard == 0:
                clips = [engine.load(view) for view in engine.plan[:CHECKED]]
                values[:CHECKED] = engine.encoder(np.stack(clips))
            engine.store.write(shard, Shard(values, {}))


def lineareval(root: Path, model: str, task: Path, *options: str) -> list[str]:
    """Returns the command line of one evaluation with the code in `root`."""
    folder = task.parent
    places = [f"--{n}={folder}/{n}" for n in ("data", "cache", "results")]
    command = [sys.executable, str(root / "lineareval.py"), model, str(task)]
    return [*command, "--quiet", "--device=cpu", *places, *options]


@contextmanager
def control_group(gigabytes: float) -> Iterator[list[str]]:
    """Yields the beginning of a command that runs in a control group of so much memory.

    The group is a new one below that of this process, and removed afterwards. Raises OSError where
    none can be made.
    """
    sys.path.insert(0, str(ROOT))
    from evar.embedding import gathering

    limits = [folder / name for folder in gathering.groups() for name, _ in gathering.LIMITS]
    own = [limit for limit in limits if limit.exists()]
    if not own:
        raise OSError("no control group of this process limits memory")
    group = own[-1].parent / f"evar-scale-{os.getpid()}"
    group.mkdir()
    try:
        (group / own[-1].name).write_text(f"{gigabytes * 1e9:.0f}")
        yield ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    finally:
        group.rmdir()


def simulated(
    folder: Path, clips: int, width: int, roots: list[Path], *, memory: float = 0.0
) -> None:
    """Prints the rows of a simulated set, and of the same one in so many GB."""
    name, task = f"{clips:,} x {width:,}, cached", simulate(folder, clips, width)
    options = ("--epochs=3", f"--width={width}", "--seconds=0.1")

    def row(name: str, begin: list[str]) -> None:
        for root in roots:
            command = lineareval(root, f"{folder}/adapter.py:Simulated", task, *options)
            found, last = cost([*begin, *command])
            print(f"{name:<34} {root.name:<8} {found}\n    {last}", flush=True)

    row(name, [])
    if memory:
        try:
            with control_group(memory) as begin:
                row(f"{name}, in {memory:g} GB", begin)
        except OSError as error:
            print(f"{name}, in {memory:g} GB: no control group ({error})")


def real(folder: Path, clips: int, roots: list[Path]) -> None:
    task = linear.make_set(folder, clips, clips)
    for root in roots:
        command = [*lineareval(root, "logmel", task), f"--cache={folder}/cache-{root.name}"]
        for name, options in (
            (f"{clips:,} clips of 5 s, raw files", []),
            ("again with another --lr, cached", ["--lr=1e-3"]),
        ):
            found, last = cost([*command, *options])
            print(f"{name:<34} {root.name:<8} {found}\n    {last}", flush=True)


def main(
    *,
    small: int = 2_000,
    many: int = 300_000,
    wide: int = 100_000,
    memory: float = 1.2,
    against: str = "",
) -> None:
    """Print every row; 0 leaves a case out."""
    roots = [*([Path(against).resolve()] if against else []), ROOT]
    with tempfile.TemporaryDirectory(prefix="evar-scale-") as place:
        folder = Path(place)
        if small:
            real(folder / "small", small, roots)
        for clips, width, group in ((many // 20, 768, 0), (many, 768, memory), (wide, 3840, 0)):
            if clips:
                simulated(folder / f"{clips}x{width}", clips, width, roots, memory=group)


if __name__ == "__main__":
    import fire

    fire.Fire(main)
