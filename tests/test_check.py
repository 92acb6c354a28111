import pytest
import torch

from evar import Adapter, models
from evar.check import check, check_model
from evar.commands.check import check as command
from evar.errors import UserError


class Good(Adapter):
    """The mean of sixteen parts of the clip, and of its square."""

    sample_rate = 8000
    embed_dim = 16

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(16, 16)

    def frames(self, audio):
        audio = torch.nn.functional.pad(audio, (0, max(0, 16 - audio.shape[1])))
        parts = audio.unfold(1, 16, 16)  # (B, T, 16)
        return self.mix(parts)


class Mixing(Good):
    def embed(self, audio):
        return super().embed(audio / audio.abs().max().clamp(min=1e-6))


class Dropping(Good):
    def embed(self, audio):
        return torch.nn.functional.dropout(super().embed(audio), 0.5)


class Crops(Good):
    def embed(self, audio):  # half a minute at random of what is longer
        over = max(0, audio.shape[1] - 240_000)
        start = int(torch.randint(over + 1, ()))
        return super().embed(audio[:, start : start + 240_000])


class MixesChunks(Good):
    def embed(self, audio):  # ten-second chunks of all clips come out in the wrong order
        if audio.shape[1] <= 80_000:
            return super().embed(audio)
        chunks = torch.cat([super(MixesChunks, self).embed(c) for c in audio.split(80_000, dim=1)])
        return chunks.view(len(audio), -1, 16).mean(dim=1)


class InPlace(Good):
    def embed(self, audio):
        audio *= 2
        return super().embed(audio)


class Dividing(Good):
    def embed(self, audio):
        return super().embed(audio / audio.norm(dim=1, keepdim=True))


class Deaf(Good):
    def embed(self, audio):
        return torch.ones(len(audio), 16)


class Short(Good):
    def frames(self, audio):
        if audio.shape[1] < 1000:
            raise ValueError("kernel larger than input")
        return super().frames(audio)


class Patient(Good):
    def frames(self, audio):
        assert audio.shape[1] < 10 * 8000
        return super().frames(audio)


class Double(Good):
    def embed(self, audio):
        return super().embed(audio).double()


class Frames(Good):
    def embed(self, audio):
        return self.frames(audio)


class Unseen(Good):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(2))

    def frames(self, audio):  # whoever looks at the blocks sees nothing of this
        return self.blocks[1].forward(self.blocks[0].forward(super().frames(audio)))


class Transposed(Good):
    def embed(self, audio):
        return super().frames(audio).mean(dim=1)

    def frames(self, audio):
        return super().frames(audio)[0]


class Paced(Good):
    frame_seconds = 0.004  # in truth 0.002: sixteen samples at 8 kHz


class Sizeless(Good):
    embed_dim = 16.0


class Rateless(Good):
    sample_rate = None


class Careless(Good):
    lr = "fast"


class Fitting(Good):
    fit_clips = 4

    def fit(self, batches):
        return {"mean": torch.stack([batch.mean() for batch in batches]).mean()}

    def fitted(self, statistics):
        self.mean = statistics["mean"]


class Reading(Good):
    joint_dim = 16

    def embed_joint(self, audio):
        return self.embed(audio)

    def embed_text(self, captions):
        longest = max(map(len, captions))
        return torch.stack([torch.full((16,), len(c) / longest) for c in captions])


class JointByChance(Reading):
    def embed_joint(self, audio):
        return self.embed(audio) + torch.rand(16)

    def embed_text(self, captions):
        return torch.ones(len(captions), 16) * torch.tensor([[len(c)] for c in captions])


class JointMixing(JointByChance):
    def embed_joint(self, audio):
        return self.embed(audio) - self.embed(audio).mean(dim=0)


class JointDeaf(JointByChance):
    def embed_joint(self, audio):
        return torch.ones(len(audio), 16)


BROKEN = {
    Mixing: ("a clip has the same embedding alone", "a clip of half a minute"),
    Dropping: (
        "the same clips give the same bytes",
        "a clip has the same embedding alone",
        "a clip of half a minute",
    ),
    Crops: "a clip of half a minute",
    MixesChunks: "a clip of half a minute",
    InPlace: "leaves the waveform unchanged",
    Dividing: "silence",
    Deaf: "different clips",
    Short: "10 ms",
    Patient: ("60 s", "a clip of half a minute"),
    Double: "embed() turns",
    Frames: "embed() turns",
    Unseen: "every layer",
    Transposed: "frames()",
    Paced: "every frame_seconds",
    Sizeless: "sample_rate, embed_dim",
    Rateless: "sample_rate, embed_dim",
    Careless: "sample_rate, embed_dim",
    Fitting: "fit()",
    Reading: "a caption has the same embedding alone",
    JointByChance: "embed_joint() of the same clips",
    JointMixing: "embed_joint() of the same clips",
    JointDeaf: "embed_joint() of the same clips",
}


def failures(cls):
    torch.manual_seed(0)
    return [finding for finding in check(cls().eval()) if not finding.ok]


def test_nothing_is_wrong_with_a_good_adapter():
    assert failures(Good) == []


@pytest.mark.parametrize("cls", BROKEN)
def test_what_is_broken_is_found_alone(cls):
    names = (BROKEN[cls],) if isinstance(BROKEN[cls], str) else BROKEN[cls]
    for finding, name in zip(failures(cls), names, strict=True):
        assert name in finding.name
        assert finding.problem
        assert finding.remedy
        assert str(finding).startswith("FAILED")


def test_training_mode_is_named():
    assert "training mode" in check(Good())[0].problem


def test_an_error_is_shown_with_its_place():
    (finding,) = failures(Short)
    assert "ValueError: kernel larger than input" in finding.problem
    assert "test_check.py:" in finding.problem


def test_nothing_is_tried_once_nothing_can_be_embedded():
    assert len(check(Double().eval())) == 2
    assert len(check(Sizeless().eval())) == 1


def test_the_command_prints_a_line_a_check(capsys):
    command("logmel")
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert lines[-1] == f"logmel: all {len(lines) - 1} checks passed"


def test_the_command_fails_where_a_check_fails(capsys, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom evar import Adapter\n\n\nclass Mine(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 1\n\n    def embed(self, audio):\n"
        "        return torch.randn(len(audio), 1)\n"
    )
    with pytest.raises(UserError, match=r"mine.py:Mine: 3 of 12 checks failed"):
        command(f"{file}:Mine")
    assert "FAILED  the same clips give the same bytes twice" in capsys.readouterr().out


UNKNOWN = {
    "values": "self.built = time.time()",
    "embeds": "self.scale = numpy.random.rand()",
    "weights": "self.register_buffer('noise', torch.from_numpy(numpy.random.rand(3)))",
    "opened": "tempfile.NamedTemporaryFile(delete=False).close(); self.read = open(kept()).read()",
}


@pytest.mark.parametrize("part", UNKNOWN)
def test_a_model_that_is_another_in_each_build_is_named(part, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import itertools, pathlib, tempfile, time, numpy, torch\nfrom evar import Adapter\n"
        "count = itertools.count()\n\n\ndef kept():\n"
        f"    path = pathlib.Path({str(tmp_path)!r}, str(next(count)))\n"
        "    __import__('os').system(f'echo x > {path}')\n    return path\n\n\n"
        "class Mine(Adapter):\n    sample_rate, embed_dim, scale = 16000, 1, 1.0\n\n"
        f"    def __init__(self):\n        super().__init__()\n        {UNKNOWN[part]}\n\n"
        "    def embed(self, audio):\n"
        "        return torch.cat([self.scale + audio.abs().mean(1, True), audio[:, :1]], 1)"
        ".mean(1, True)\n"
    )
    (failed,) = [f for f in check_model(f"{file}:Mine") if not f.ok]
    assert failed.name == "built again, it is the same model"
    assert part in failed.problem
    assert failed.remedy


def test_a_verified_model_may_not_read_files_that_its_identity_lacks(
    tmp_path, monkeypatch, new_adapter
):
    (tmp_path / "scale.json").write_text("2")
    text = (
        "import json\nfrom evar import Adapter\n\n\nclass Mine(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 1\n\n    def embed(self, audio):\n"
        f"        scale = json.load(open({str(tmp_path / 'scale.json')!r}))\n"
        "        return scale * audio.abs().mean(1, keepdim=True)\n"
    )
    spec = models.ModelConfig("mine", new_adapter(text, "Mine"), verified="by nobody")
    monkeypatch.setattr(models, "config", lambda _: spec)
    (failed,) = [f for f in check_model("mine") if not f.ok]
    assert "embed() reads scale.json" in failed.problem


def test_a_registered_model_passes():
    findings = check_model("cnn14", weights="random", width=2)
    assert [str(finding) for finding in findings if not finding.ok] == []
