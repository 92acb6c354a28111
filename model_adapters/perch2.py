"""Perch 2.0: a classifier of birds and other animals (Google DeepMind, 2025), as an ONNX file."""

from pathlib import Path

import torch

from evar.adapter import Adapter
from evar.errors import UserError
from evar.weights import first_line

from ._frontend import zero_pad

_WINDOW = 160_000  # samples: 5 s
_PEAK = 0.25
_FRAMES = 16  # of a window
_OUTPUT = "spatial_embedding"  # (N, 16, 4, D): frames and bands


class Perch2(Adapter):
    """Perch 2.0's embedding, averaged over windows of 5 s: 1,536-d.

    Van Merrienboer et al., "Perch 2.0: The bittern lesson for bioacoustics", 2025. `weights` is the
    network as an ONNX file, which the package onnxruntime computes on the CPU; it holds the front
    end as well. Each window of a clip is brought to zero mean and a peak of 0.25, as Google's
    library perch-hoplite does; the last one is filled up with silence first. A frame is 0.3125 s,
    the mean over four bands; a clip's embedding is the mean over its frames. It cannot be
    fine-tuned.
    """

    sample_rate = 32000
    frame_seconds = 5 / _FRAMES
    embed_dim = 1536
    TINY = None  # the network is in the file

    def __init__(self, weights=None):
        super().__init__(weights)
        if weights is None:
            raise UserError(
                "perch2: the network is in its weights file, so that none can be random: leave out "
                "--weights=random, or give the file"
            )
        self.session = _session(Path(weights))
        self.embed_dim = int(_output(self.session, weights).shape[-1])

    def frames(self, audio):
        clips, samples = audio.shape
        count = -(-samples // _WINDOW)
        windows = zero_pad(audio, count * _WINDOW).view(clips * count, _WINDOW)
        windows = windows - windows.mean(dim=1, keepdim=True)
        peak = windows.abs().amax(dim=1, keepdim=True)
        windows = torch.where(peak > 0, windows * _PEAK / peak, windows)
        (name,) = (entry.name for entry in self.session.get_inputs())
        (out,) = self.session.run([_OUTPUT], {name: windows.cpu().numpy()})
        frames = torch.from_numpy(out).to(audio.device).mean(dim=2)  # (N, 16, D)
        return frames.reshape(clips, -1, self.embed_dim)


def _session(path: Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"perch2 needs the package onnxruntime: pip install 'evar[perch]' ({error})"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common but this
        raise UserError(
            f"{path}: not an ONNX file that can be run ({first_line(error)})"
        ) from error


def _output(session, path):
    found = {entry.name: entry for entry in session.get_outputs()}
    if _OUTPUT not in found or len(found[_OUTPUT].shape) != 4 or len(session.get_inputs()) != 1:
        raise UserError(
            f"{path}: not the Perch 2.0 network, which has one input and an output "
            f"{_OUTPUT} of four dimensions (found {', '.join(found)})"
        )
    return found[_OUTPUT]
