"""Models of a sweep: three that work, and some that do not."""

import pytest

MODELS = """
import os, resource, signal, time
import torch
from evar import Adapter


class One(Adapter):
    sample_rate = 16000
    embed_dim = 3
    lr = 0.05
    scale = 1.0

    def embed(self, audio):
        crossings = (audio[:, 1:].sign() != audio[:, :-1].sign()).float().mean(dim=1)
        power = audio.square().mean(dim=1)
        return self.scale * torch.stack([power, audio.abs().amax(dim=1), crossings], 1)


class Two(One):
    scale = 2.0


class Three(One):
    sample_rate = 8000


class Slow(One):
    scale = 3.0

    def embed(self, audio):
        time.sleep(0.25)
        return super().embed(audio)


class Sluggish(Slow):
    scale = 4.0


class Raises(One):
    scale = 5.0

    def embed(self, audio):
        raise RuntimeError("no such layer")


class Eats(One):
    scale = 6.0

    def embed(self, audio):
        if audio.device.type == "cpu":
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
            self.held = torch.ones(2**30)
        return super().embed(audio)


class Dies(One):
    scale = 7.0

    def embed(self, audio):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def models(tmp_path):
    """A function: MODELS of these class names."""
    (tmp_path / "mine.py").write_text(MODELS)
    return lambda *names: ",".join(f"{tmp_path}/mine.py:{name}" for name in names)
