"""What a run leaves on disk while it trains, so that it can be killed at any moment.

One folder a seed and fold: state.pt (all that training goes on from), best-N.safetensors (the best
epoch's weights), and once it has ended best.safetensors, scores.npy and done.json instead.
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

from evar import files
from evar.errors import UserError
from evar.weights import load_checkpoint


def run_key(about: dict) -> str:
    """The name of a run's folder: what decides its scores, hashed."""
    return hashlib.sha256(files.canonical_json(about).encode()).hexdigest()[:16]


class Place:
    """The folder of one seed and fold."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def lock(self) -> filelock.FileLock:
        """Whoever holds it trains here; it is free again when its process has gone."""
        with files.writing(self.path):
            files.make_folder(self.path)
            return filelock.FileLock(self.path / ".train.lock")

    def clear(self) -> None:
        """Forget what an earlier run left."""
        for name in ("done.json", "state.pt", "scores.npy"):  # what counts goes first
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.glob("best*.safetensors"):
            path.unlink()

    def tidy(self) -> None:
        """Remove what a process left that was killed while it wrote; for who holds the lock."""
        if self.ended:
            (self.path / "state.pt").unlink(missing_ok=True)
        for pattern in (".state.pt.*", ".best*.safetensors.*", ".scores.npy.*", ".done.json.*"):
            for path in self.path.glob(pattern):
                path.unlink()

    def save_state(self, state: dict) -> None:
        """Keep plain values and tensors to go on from, and of the weights the best epoch's only."""
        content = io.BytesIO()
        torch.save(state, content)
        files.write_atomic(self.path / "state.pt", content.getbuffer())
        for path in self.path.glob("best-*.safetensors"):
            if path != self._best(state["best_epoch"]):
                path.unlink()

    def state(self) -> dict | None:
        """What `save_state` kept, on the CPU; None where nothing was."""
        path = self.path / "state.pt"
        if not path.exists():
            return None
        with self._damaged(path):
            state = load_checkpoint(path)
            if best := state["best_epoch"]:
                self._file_of(best)
            return state

    def save_weights(self, epoch: int, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Write the weights of an epoch; `about` stands in the file's header."""
        from safetensors.torch import save

        files.write_atomic(self._best(epoch), save(tensors, metadata=about))

    def weights(self, epoch: int | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The weights of an epoch, or those that an ended run has: tensors and header.

        Raises UserError where there are none.
        """
        from safetensors import safe_open

        path = self._file_of(epoch)
        tensors = load_checkpoint(path)
        with safe_open(path, "pt") as file:
            return tensors, file.metadata() or {}

    def finish(self, epoch: int, scores: NDArray, record: dict) -> None:
        """Write test scores (N, C) and how training went; nothing is left to go on from."""
        if self._best(epoch).exists():
            self._best(epoch).replace(self.path / "best.safetensors")
        content = io.BytesIO()
        np.save(content, scores)
        files.write_atomic(self.path / "scores.npy", content.getvalue())
        files.write_atomic(self.path / "done.json", json.dumps(record, indent=1) + "\n")
        (self.path / "state.pt").unlink(missing_ok=True)

    def older_than(self, moment: float) -> bool:
        """Whether all there is was left before then (seconds since 1970)."""
        found = [self.path / name for name in ("done.json", "state.pt")]
        return all(path.stat().st_mtime < moment for path in found if path.exists())

    @property
    def ended(self) -> bool:
        return (self.path / "done.json").exists()

    def outcome(self) -> tuple[NDArray, dict]:
        """What `finish` wrote."""
        with self._damaged(self.path / "done.json"):
            record = json.loads((self.path / "done.json").read_text(encoding="utf-8"))
            return np.load(self.path / "scores.npy", allow_pickle=False), record

    def _file_of(self, epoch: int | None) -> Path:
        """Where the weights of an epoch are, or those of an ended run; UserError if nowhere."""
        for path in (self._best(epoch or 0), self.path / "best.safetensors"):
            if path.exists():
                return path
        raise UserError(f"{self.path}: no weights there. Train first, without --eval_only.")

    @contextlib.contextmanager
    def _damaged(self, path: Path) -> Iterator[None]:
        """Whatever cannot be read of what this run wrote means one thing to a user."""
        try:
            yield
        except (UserError, OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path}: damaged, or without the files beside it. Start anew with --no_resume, or "
                f"remove {self.path}"
            ) from error

    def _best(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:04d}.safetensors"
