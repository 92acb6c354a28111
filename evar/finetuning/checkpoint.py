"""Checkpoints and results of a training on disk, so that it can be killed at any moment.

One folder per seed and fold: state.pt (what training resumes from) and best-N.safetensors (the best
epoch's weights); once it has ended, best.safetensors, logits.npy and done.json instead.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar import files, locks
from evar.errors import UserError
from evar.weights import load_checkpoint


def run_key(about: dict) -> str:
    """Returns the name of a run's folder: a hash of what decides its scores."""
    return hashlib.sha256(files.canonical_json(about).encode()).hexdigest()[:16]


class Place:
    """The folder of one seed and fold."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def lock(self) -> filelock.FileLock:
        """Returns the lock of the process that trains here; it is released when that ends."""
        with files.writing(self.path):
            files.make_folder(self.path)
            return locks.lock(self.path / ".train.lock")

    def clear(self) -> None:
        """Removes what an earlier run left."""
        for name in (
            "done.json",
            "state.pt",
            "logits.npy",
        ):  # the marker of a finished run goes first
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.glob("best*.safetensors"):
            path.unlink()

    def tidy(self) -> None:
        """Removes temporary files of killed processes; only the holder of the lock may call it."""
        if self.ended:
            (self.path / "state.pt").unlink(missing_ok=True)
        for pattern in (".state.pt.*", ".best*.safetensors.*", ".logits.npy.*", ".done.json.*"):
            for path in self.path.glob(pattern):
                path.unlink()

    def save_state(self, state: dict) -> None:
        """Writes plain values and tensors to resume from; keeps the best epoch's weights only."""
        content = io.BytesIO()
        torch.save(state, content)
        files.write_atomic(self.path / "state.pt", content.getbuffer())
        for path in self.path.glob("best-*.safetensors"):
            if path != self._best(state["best_epoch"]):
                path.unlink()

    def state(self) -> dict | None:
        """Returns what `save_state` wrote, on the CPU; None where there is nothing."""
        path = self.path / "state.pt"
        if not path.exists():
            return None
        with self._damaged(path):
            state = load_checkpoint(path)
            if best := state["best_epoch"]:
                self._file_of(best)
            return state

    def save_weights(self, epoch: int, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Writes the weights of an epoch; `about` goes into the file's header."""
        from safetensors.torch import save

        files.write_atomic(self._best(epoch), save(tensors, metadata=about))

    def weights(self, epoch: int | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Returns the weights of an epoch, or of a finished run: tensors and header.

        Raises UserError where there are none.
        """
        from safetensors import safe_open

        path = self._file_of(epoch)
        tensors = load_checkpoint(path)
        with safe_open(path, "pt") as file:
            return tensors, file.metadata() or {}

    def finish(self, epoch: int, logits: NDArray, record: dict) -> None:
        """Writes test logits (N, C) and the record of training; removes the state."""
        if self._best(epoch).exists():
            self._best(epoch).replace(self.path / "best.safetensors")
        content = io.BytesIO()
        np.save(content, logits)
        files.write_atomic(self.path / "logits.npy", content.getvalue())
        files.write_atomic(self.path / "done.json", json.dumps(record, indent=1) + "\n")
        (self.path / "state.pt").unlink(missing_ok=True)

    def older_than(self, moment: float) -> bool:
        """Returns whether all files were written before a moment (seconds since 1970)."""
        found = [self.path / name for name in ("done.json", "state.pt")]
        return all(path.stat().st_mtime < moment for path in found if path.exists())

    @property
    def ended(self) -> bool:
        return (self.path / "done.json").exists()

    def outcome(self) -> tuple[NDArray, dict]:
        """Returns what `finish` wrote: test logits (N, C) and the record."""
        with self._damaged(self.path / "done.json"):
            record = json.loads((self.path / "done.json").read_text(encoding="utf-8"))
            return np.load(self.path / "logits.npy", allow_pickle=False), record

    def _file_of(self, epoch: int | None) -> Path:
        """Returns the file of an epoch's weights, or of a finished run's; UserError for none."""
        for path in (self._best(epoch or 0), self.path / "best.safetensors"):
            if path.exists():
                return path
        raise UserError(f"{self.path}: no weights there. Train first, without --eval_only.")

    @contextlib.contextmanager
    def _damaged(self, path: Path) -> Iterator[None]:
        """Re-raises all errors of reading a run's files as one UserError with the remedy."""
        try:
            yield
        except (UserError, OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path}: damaged, or files that belong to it are missing. Start over with "
                f"--no_resume, or remove {self.path}"
            ) from error

    def _best(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:04d}.safetensors"
