"""What a model is: state wherever it is kept makes another model, and then other embeddings.

Each case has an encoder whose state lies outside of parameters, buffers and code. Its state
changes, and the model must be another one; as it was, it must be the same one again.
"""

import json
import sys
import textwrap

import numpy as np
import pytest
import torch

import evar
from evar import models, opened_files

HEAD = """
import json
import pathlib
import sys

import numpy
import torch

from evar import Adapter


class Mine(Adapter):
    sample_rate, embed_dim = 16000, 2

"""

# The adapter's methods, where state.npy or state.json lies at {path}. Each multiplies two
# statistics of the clip by two numbers.
STATISTICS = """
    def statistics(self, audio):
        return torch.stack([audio.abs().mean(1), audio.square().mean(1).sqrt()], 1)
"""
KEPT_IN = {
    "an array": """
    def __init__(self):
        super().__init__()
        self.matrix = numpy.load({path!r})
    def embed(self, audio):
        return self.statistics(audio) * torch.from_numpy(self.matrix)
""",
    "an array of a helper object": """
    def __init__(self):
        super().__init__()
        self.helper = type("Helper", (), {{}})()
        self.helper.scale = numpy.load({path!r})
    def embed(self, audio):
        return self.statistics(audio) * torch.from_numpy(self.helper.scale)
""",
    "a default path": """
    def __init__(self, path: str = {path!r}):
        super().__init__()
        self.scale = numpy.load(path).tolist()
    def embed(self, audio):
        return self.statistics(audio) * torch.tensor(self.scale)
""",
    "a closure": """
    def __init__(self):
        super().__init__()
        scale = torch.from_numpy(numpy.load({path!r}))
        self.scaled = lambda x: x * scale
    def embed(self, audio):
        return self.scaled(self.statistics(audio))
""",
    "a file that embed reads": """
    def embed(self, audio):
        return self.statistics(audio) * torch.from_numpy(numpy.load({path!r}))
""",
    "a network that the first embed loads": """
    def __init__(self):
        super().__init__()
        self.net = None
    def embed(self, audio):
        if self.net is None:
            self.net = torch.nn.Linear(2, 2, bias=False)
            self.net.weight.data = torch.diag(torch.from_numpy(numpy.load({path!r})))
        return self.net(self.statistics(audio))
""",
    "weights that the class ignores": """
    def __init__(self, weights=None):
        super().__init__()
        self.scale = numpy.load({path!r})
    def embed(self, audio):
        return self.statistics(audio) * torch.from_numpy(self.scale)
""",
    "a session of a C library": """
    def __init__(self):
        super().__init__()
        import evar_test_runtime
        self.session = evar_test_runtime.Session({path!r})
    def embed(self, audio):
        return self.statistics(audio) * torch.tensor(self.session.run())
""",
}


def write(tmp_path, methods: str, numbers) -> str:
    state = tmp_path / "state.npy"
    np.save(state, np.array(numbers, np.float32))
    file = tmp_path / "mine.py"
    file.write_text(HEAD + STATISTICS + methods.format(path=str(state)))
    return f"{file}:Mine"


@pytest.fixture
def runtime_library(tmp_path, monkeypatch):
    """An installed library whose session reads its file as C code does: no hook sees it."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "evar_test_runtime.py").write_text(
        textwrap.dedent(
            """
            import subprocess

            class Session:
                __slots__ = ("numbers",)

                def __init__(self, path):
                    read = ["od", "-A", "n", "-t", "f4", "-j", "128", path]
                    self.numbers = [float(n) for n in subprocess.check_output(read).split()]

                def run(self):
                    return self.numbers
            """
        )
    )
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("evar_test_runtime", None)


@pytest.mark.parametrize("kind", KEPT_IN)
def test_state_is_part_of_the_model_wherever_it_is_kept(kind, tmp_path, runtime_library):
    found = [
        models.load(write(tmp_path, KEPT_IN[kind], numbers)).identity
        for numbers in ([1, 2], [1, 2], [1, 3])
    ]
    assert found[0] == found[1] != found[2]
    assert found[0]["embeds"] != found[2]["embeds"]


@pytest.mark.parametrize("kind", ["a file that embed reads", "a session of a C library"])
def test_a_changed_state_is_never_scored_from_old_embeddings(
    kind, tmp_path, clips, runtime_library
):
    runs = [
        evar.evaluate(write(tmp_path, KEPT_IN[kind], numbers), clips.csv, seeds=1, device="cpu")
        for numbers in ([1, 2], [1, 2], [2, -7])
    ]
    ids = [run.record.id for run in runs]
    speeds = [run.record.clips_per_second for run in runs]
    assert ids[0] == ids[1] != ids[2]
    assert speeds[0] is not None
    assert speeds[1] == speeds[0], "the same model's embeddings were computed again"
    assert speeds[2] not in (None, speeds[0])


@pytest.mark.parametrize("kind", ["an array", "a default path", "a file that embed reads"])
def test_files_are_named_in_the_identity(kind, tmp_path):
    opened = models.load(write(tmp_path, KEPT_IN[kind], [1, 2])).identity["opened"]
    assert opened == {"state.npy": opened_files.digest(tmp_path / "state.npy")}


def test_weights_count_although_the_class_ignores_them(tmp_path):
    model = write(tmp_path, KEPT_IN["weights that the class ignores"], [1, 2])
    found = []
    for content in (b"one", b"one", b"two"):
        (tmp_path / "net.bin").write_bytes(content)
        found.append(models.load(model, weights=tmp_path / "net.bin").identity)
    assert found[0] == found[1] != found[2]
    assert found[0]["file"] != found[2]["file"]


def test_a_file_that_a_module_reads_when_it_is_imported_is_part_of_the_model(tmp_path):
    file, table = tmp_path / "mine.py", tmp_path / "table.json"
    text = HEAD.replace("class Mine", f"SCALE = json.load(open({str(table)!r}))\n\nclass Mine")
    file.write_text(
        text
        + STATISTICS
        + "\n    def embed(self, audio):\n"
        + (
            "        return self.statistics(audio)\n"  # the table matters for other sounds alone
        )
    )
    found = []
    for scale in ([1], [1], [2]):
        table.write_text(json.dumps(scale))
        for name in [n for n in sys.modules if n.startswith("evar_user_")]:
            del sys.modules[name]  # as in a new process
        found.append(models.load(f"{file}:Mine").identity)
    assert found[0] == found[1] != found[2]
    assert set(found[0]["opened"]) == {"table.json"}


def test_the_same_model_again_is_the_same_though_it_keeps_what_it_has_read(tmp_path):
    """Its class reads the file once, in the first of two builds of this process."""
    model = write(
        tmp_path,
        """
    kept = []
    def __init__(self):
        super().__init__()
        self.kept or self.kept.append(numpy.load({path!r}))
    def embed(self, audio):
        return self.statistics(audio) * torch.from_numpy(self.kept[0])
""",
        [1, 2],
    )
    first, second = models.load(model).identity, models.load(model).identity
    assert first["opened"] == second["opened"]
    assert first == second


def test_what_a_class_keeps_of_earlier_runs_is_no_other_model(tmp_path):
    """A worker of a sweep, which runs it on several tasks, gives the ids of single runs."""
    model = write(
        tmp_path,
        """
    windows = {{}}
    def embed(self, audio):
        self.windows.setdefault(audio.shape[1], torch.hann_window(audio.shape[1]))
        return self.statistics(audio)
""",
        [1, 2],
    )
    first = models.load(model)
    first.adapter.embed(torch.ones(1, 123))
    assert models.load(model).identity == first.identity


def test_an_instance_that_has_read_a_file_stays_the_same_model(tmp_path):
    model = write(tmp_path, KEPT_IN["a network that the first embed loads"], [1, 2])
    adapter = models.adapter_class(model)()
    first, second = models.load(adapter).identity, models.load(adapter).identity
    assert first == second
    assert set(first["opened"]) == {"state.npy"}


def test_what_a_model_opens_without_reading_its_state_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/.config").mkdir(parents=True)
    (tmp_path / "home/.config/settings").write_text("x")
    model = write(
        tmp_path,
        """
    def __init__(self):
        super().__init__()
        import json.tool, email.charset
        open({path!r} + ".log", "a").write("built")
        open({path!r} + ".log").read()
        open("/proc/self/status").read()
        pathlib.Path.home().joinpath(".config/settings").read_text()
        pathlib.Path(torch.__file__).read_text()
        pathlib.Path(__file__).read_text()
    def embed(self, audio):
        return self.statistics(audio)
""",
        [1, 2],
    )
    assert "opened" not in models.load(model).identity


def test_a_registered_model_is_what_it_was():
    """Their embeddings are kept for years: no entry joins their identity without a reason."""
    found = models.load("byola", weights="random").identity
    assert set(found) == {
        *("adapter", "source", "options", "files", "weights", "file", "libraries")
    }


class Windowed(evar.Adapter):
    """Its window is no option: a class attribute, and a global of this file."""

    sample_rate, embed_dim = 16000, 2
    window = 3.0

    def embed(self, audio):
        part = audio[:, : round(self.window * self.sample_rate)]
        return GAIN * torch.stack([part.abs().mean(1), part.square().mean(1)], 1)


GAIN = 1.0


@pytest.mark.parametrize("as_instance", [False, True])
def test_values_that_a_program_gives_a_class_are_part_of_it(as_instance, monkeypatch):
    def of() -> dict:
        return dict(models.load(Windowed() if as_instance else Windowed).identity)

    before = of()
    assert of() == before
    with monkeypatch.context() as changed:
        changed.setattr(Windowed, "window", 5.0)  # which clips of one second do not show
        assert of() != before
    with monkeypatch.context() as changed:
        changed.setattr(sys.modules[__name__], "GAIN", 1.5)
        assert of() != before
    with monkeypatch.context() as changed:
        changed.setattr(Windowed, "embed", lambda self, audio: audio[:, :2].clone())
        assert of() != before
    assert of() == before


class Bands(evar.Adapter):
    sample_rate, embed_dim = 16000, 4

    def __init__(self, bands: int = 4):
        super().__init__()
        self.embed_dim = bands

    def embed(self, audio):
        return audio[:, : self.embed_dim].clone()


def test_an_instance_is_the_same_model_as_its_class():
    assert models.load(Bands).identity == models.load(Bands()).identity
    assert models.load(Bands).identity != models.load(Bands(5)).identity


ONNX = """
    def __init__(self):
        super().__init__()
        import onnxruntime
        source = {path!r}
        if {as_bytes}:
            source = pathlib.Path(source).read_bytes()
        self.session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    def embed(self, audio):
        (out,) = self.session.run(None, {{"x": self.statistics(audio).numpy()}})
        return torch.from_numpy(out)
"""


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("by", [2.0, 1.00001])
def test_an_onnx_session_is_part_of_the_model(by, as_bytes, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime onnx")
    onnx = pytest.importorskip("onnx", reason="pip install onnxruntime onnx")
    from onnx import TensorProto, helper

    def load(scale: float) -> dict:
        def value(name):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])

        factor = helper.make_tensor("factor", TensorProto.FLOAT, [2], [1.0, scale])
        node = helper.make_node("Mul", ["x", "factor"], ["y"])
        graph = helper.make_graph([node], "net", [value("x")], [value("y")], [factor])
        versions = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 9}
        onnx.save(helper.make_model(graph, **versions), tmp_path / "net.onnx")
        file = tmp_path / "mine.py"
        path = str(tmp_path / "net.onnx")
        file.write_text(HEAD + STATISTICS + ONNX.format(path=path, as_bytes=as_bytes))
        return dict(models.load(f"{file}:Mine").identity)

    assert load(1.0) == load(1.0) != load(by)
