"""The test clips of a run on this disk: where they are, what group they are in, how they sound."""

import base64
import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evar.data import audio, manifests, opening, packed
from evar.data.manifest import Manifest
from evar.errors import BadAudio, UserError
from evar.results.record import RunRecord
from evar.task import Task, get, names

# Licences under which a sound may be passed on with its source named. Not: ND, "none stated".
_FREE = re.compile(r"(CC0|CC BY(-NC)?(-SA)?|ODbL|GPL|public domain)\b(?!-)", re.IGNORECASE)
_RATE = 24_000  # Hz, of embedded sounds
_LONGEST = 10.0  # seconds of a clip that are embedded
_BANDS, _FRAMES = 64, 160  # pixels of a spectrogram


@dataclass(frozen=True)
class OnDisk:
    """A run's data set on this disk, or why it was not found."""

    manifest: Manifest | None
    reason: str = ""


def find(run: RunRecord, data=None) -> OnDisk:
    """Looks for the manifest that a run was scored on: bundled, in <data>/manifests/, or own."""
    try:
        if run.task.name in names() and get(run.task.name).bundled:
            return _checked(run, opening.open_task(run.task.name, data=data))
    except UserError as error:
        return OnDisk(None, str(error))
    folders = dict.fromkeys((opening.data_folder(data), opening.own_folder(data)))
    for folder in folders:
        for head in sorted((folder / "manifests").glob("*.json")):
            for task in _tasks(run):
                found = manifests.load(task, folder, name=head.stem)
                if found is not None and (kept := _checked(run, found)).manifest is not None:
                    return kept
    where = " or ".join(map(str, folders))
    return OnDisk(None, f"the clips of {run.task.name} are not in {where} (--data=DIR)")


def _checked(run: RunRecord, manifest: Manifest) -> OnDisk:
    if manifest.sha256 == run.manifest:
        return OnDisk(manifest)
    if not manifest.task.folds and (side := manifest.test_side()).sha256 == run.manifest:
        return OnDisk(side)
    return OnDisk(None, f"{run.task.name} has changed since this run (another manifest)")


def _tasks(run: RunRecord) -> list[Task]:
    """The task as far as its manifest needs it, with a split and with folds."""

    def read(root):
        raise UserError(f"{root}: read from its manifest alone")

    of_run = run.task
    split = Task(
        name=of_run.name,
        version=of_run.version,
        title=of_run.name,
        read=read,
        marker="",
        seconds=of_run.seconds,
        kind="tagging" if of_run.kind == "tagging" else "classification",
    )
    return [split, replace(split, folds=("1",))]


def may_be_passed_on(run: RunRecord) -> tuple[bool, str]:
    """Returns whether a run's sounds may stand inside a page, and the licence or reason."""
    if run.task.name not in names():
        return True, "your own sounds"
    licence = get(run.task.name).licence
    return bool(_FREE.match(licence)), licence or "no licence is stated"


@dataclass
class Sounds:
    """Players and spectrograms for a page. `how`: "embed", "link" or "none".

    Embedded sounds share a budget of bytes; what is over it has no player.
    """

    disk: OnDisk
    how: str
    page: Path  # where the page will lie: links are relative to it
    budget: int = 2_500_000
    _known: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self):
        manifest = self.disk.manifest
        clips = [] if manifest is None else manifest.clips.tolist()
        self._rows = {clip: row for row, clip in enumerate(clips)}

    def source(self, clip: str) -> str | None:
        """Returns the address of a clip for an audio element; None where it cannot be heard."""
        if clip not in self._known:
            self._known[clip] = self._source(clip)
        return self._known[clip]

    def _source(self, clip: str) -> str | None:
        path = self._path(clip)
        if path is None or self.how == "none":
            return None
        if self.how == "link":
            if isinstance(path, packed.Sound):
                return None  # no browser opens a sound within a shard
            _, mark, times = clip.rpartition("#t=") if self._span(clip) else ("", "", "")
            return path.resolve().as_uri() + mark + times  # browsers play a media fragment alone
        samples = self._samples(clip, _RATE)
        if samples is None or self.budget <= 0:
            return None
        address = data_uri(mp3(samples), "audio/mpeg")
        if len(address) > self.budget:
            return None
        self.budget -= len(address)
        return address

    def spectrogram(self, clip: str) -> str | None:
        """Returns a small picture of a clip as a data: address; None where it is not on disk."""
        samples = None if self._path(clip) is None else self._samples(clip, 16_000)
        return None if samples is None else data_uri(picture(samples), "image/png")

    def _path(self, clip: str) -> Path | packed.Sound | None:
        manifest, row = self.disk.manifest, self._rows.get(clip)
        if manifest is None or row is None:
            return None
        path = packed.locate(manifest.root / manifest.table.file[row])
        return path if path.is_file() else None

    def _span(self, clip: str) -> tuple[int, int] | None:
        manifest = self.disk.manifest
        return None if manifest is None else manifest.span(self._rows[clip])

    def _samples(self, clip: str, rate: int) -> NDArray | None:
        try:
            loaded = audio.load_clip(
                self._path(clip),
                sample_rate=rate,
                samples=None,
                start=0,
                span=self._span(clip),
                silence=True,
            )
        except BadAudio:
            return None
        return loaded[: int(_LONGEST * rate)]


def data_uri(content: bytes, kind: str) -> str:
    """Returns bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def mp3(samples: NDArray) -> bytes:
    """Returns (S,) float samples at 24 kHz as MP3, variable rate of low quality."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, _RATE, format="MP3", compression_level=0.8)
    return file.getvalue()


def picture(samples: NDArray) -> bytes:
    """Returns a log-mel spectrogram of (S,) samples at 16 kHz as a PNG, low bands at the bottom."""
    import torch
    import torchaudio
    from PIL import Image

    wave = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
    wave = torch.nn.functional.pad(wave, (0, max(0, 1024 - len(wave))))
    hop = max(80, len(wave) // _FRAMES)
    mel = torchaudio.transforms.MelSpectrogram(16_000, 1024, hop_length=hop, n_mels=_BANDS)
    level = (mel(wave) + 1e-8).log10()[:, :_FRAMES]  # (F, T)
    top = float(level.max())
    level = ((level - (top - 6)) / 6).clamp(0, 1)  # the upper 60 dB
    pixels = (255 * level.flip(0)).to(torch.uint8).numpy()
    image = Image.fromarray(pixels, mode="P")
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _palette() -> list[int]:
    """256 colours from black through purple and orange to pale yellow, of rising lightness."""
    stops = np.array([[4, 4, 20], [74, 16, 108], [180, 46, 98], [245, 125, 60], [252, 253, 191]])
    at = np.linspace(0, len(stops) - 1, 256)
    columns = [np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return np.stack(columns, axis=1).round().astype(int).ravel().tolist()
