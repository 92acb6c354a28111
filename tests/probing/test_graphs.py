"""Recorded steps: the bits of direct ones, with a recorder that needs no GPU."""

import contextlib
import warnings
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evar.probing import graphs, probe
from evar.probing.graphs import Replays
from evar.probing.probe import Job, ProbeSettings


class Tape(TorchDispatchMode):
    """Notes every operation with its tensors, and does them again in the same memory."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.done.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        for function, args, kwargs, out in self.done:
            found = function(*args, **kwargs)
            if isinstance(out, torch.Tensor) and out.data_ptr() != found.data_ptr():
                out.copy_(found)


@dataclass
class Taping:
    """What a CUDA graph is, on a CPU: the same operations on the same addresses, no Python."""

    warm_up: int = 3
    captures: int = 0
    replayed: int = 0

    def capture(self, function):
        self.captures += 1
        for _ in range(self.warm_up):
            function()
        self.tape = Tape()
        with self.tape:  # the state changes; while a CUDA graph is captured it does not
            function()
        return self

    def replay(self):
        self.replayed += 1
        self.tape.replay()


@dataclass
class Refusing(Taping):
    """A recorder that fails after some of the calls, as one whose memory is too small."""

    def capture(self, function):
        super().capture(function)
        raise RuntimeError("no graph today\nat line 1")


@dataclass
class Stale(Taping):
    """A recorder whose recordings do nothing: the state stays as it was."""

    def replay(self):
        self.replayed += 1


@dataclass
class Twice(Taping):
    """A recorder whose recordings make every step twice."""

    def replay(self):
        super().replay()
        super().replay()


@dataclass
class Problem:
    """Probes to be trained, and whether their steps are recorded."""

    multi_label: bool = False
    hidden: tuple[int, ...] = ()
    rates: tuple[float, ...] = (1e-2,)
    unequal: bool = True
    classes: int = 5
    dim: int = 19
    one_lane: bool = False
    x: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(0)
        y = rng.integers(0, self.classes, 330)
        centres = rng.standard_normal((self.classes, self.dim))
        x = centres[y] + 2 * rng.standard_normal((330, self.dim))
        self.x, self.y = x.astype(np.float32), y
        if self.multi_label:
            self.y = np.stack([y == c for c in range(4)] + [y > 1], axis=1).astype(np.int8)

    def jobs(self):
        fold = np.arange(330) % 5
        if self.unequal:  # of three, four and four batches
            fold = np.digitize(np.arange(330) % 10, [5, 8])
        sides = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(3)]
        return [
            Job(train, None, test, seed, i, lr=lr)
            for lr in self.rates
            for seed in (1, 2)
            for i, (train, test) in enumerate(sides)
        ]

    def fit(self, monkeypatch, recorder, *, eager=0):
        """Returns the trained probes, their steps made by a recorder."""
        monkeypatch.setattr(graphs, "replays_on", lambda _: Replays(recorder, eager=eager))
        if self.one_lane:
            monkeypatch.setattr(probe, "_groups", lambda jobs, *_: [[list(range(len(jobs)))]])
        settings = ProbeSettings(hidden=self.hidden, epochs=25, patience=4, batch_size=64)
        return probe.fit(self.x, self.y, self.jobs(), settings)


PROBLEMS = {
    "folds of different sizes": Problem(),
    "networks that Adam updates as one": Problem(classes=16, dim=32, rates=(3e-2,)),
    "folds of one size": Problem(unequal=False),
    "several labels": Problem(multi_label=True),
    "several lanes": Problem(rates=(1e-3, 1e-2, 5e-2)),
    "several lanes and labels": Problem(rates=(1e-3, 5e-2), multi_label=True),
    "rates in one stack, as on a GPU": Problem(rates=(1e-3, 5e-2), one_lane=True),
    "one diverges": Problem(rates=(1e-2, np.inf)),
}


def require_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.logits.tobytes() == b.logits.tobytes()
        assert (a.epochs, a.best_epoch, a.goodness) == (b.epochs, b.best_epoch, b.goodness)
        for mine, other in zip(a.layers, b.layers, strict=True):
            assert all(p.tobytes() == q.tobytes() for p, q in zip(mine, other, strict=True))


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("eager", [0, 7])
def test_replayed_steps_have_the_bits_of_direct_ones(monkeypatch, name, eager):
    problem, recorder = PROBLEMS[name], Taping()
    direct = problem.fit(monkeypatch, None)
    assert len({fitted.epochs for fitted in direct}) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replayed = problem.fit(monkeypatch, recorder, eager=eager)
    require_equal(replayed, direct)
    assert recorder.captures > 1  # one for each set of probes that go on for long enough
    assert recorder.replayed > 2 * recorder.captures


@pytest.mark.parametrize(
    ("recorder", "why"),
    [
        (Refusing(), "no graph today$"),
        (Refusing(warm_up=0), "no graph today$"),
        (Stale(), "replayed steps differ from direct ones"),
        (Twice(), "replayed steps differ from direct ones"),
    ],
)
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_recording_that_fails_or_differs_is_given_up_once(monkeypatch, recorder, why, name):
    problem, recorder = PROBLEMS[name], replace(recorder)
    direct = problem.fit(monkeypatch, None)
    with pytest.warns(UserWarning, match=why) as warned:
        fitted = problem.fit(monkeypatch, recorder)
    require_equal(fitted, direct)
    assert len(warned) == recorder.captures == 1


def test_steps_with_dropout_are_not_recorded(monkeypatch):
    problem, recorder = Problem(hidden=(16,)), Taping()
    require_equal(problem.fit(monkeypatch, recorder), problem.fit(monkeypatch, None))
    assert recorder.captures == 0


def test_a_recording_is_of_buffers_and_ends_with_forget():
    total, recorder = torch.zeros(3), Taping(warm_up=0)

    def step(x):
        total.add_(x)

    replays = Replays(recorder, eager=1)
    for number in (1.0, 2.0, 3.0, 4.0):
        replays.run(step, [torch.full((3,), number)], lambda: [total])
    assert total.tolist() == [10.0] * 3
    assert (recorder.captures, recorder.replayed) == (1, 3)  # one of them is compared
    replays.forget()
    replays.run(step, [torch.ones(1)], lambda: [total])
    assert total.tolist() == [11.0] * 3
    assert recorder.captures == 1


def test_only_a_gpu_has_a_recorder():
    assert graphs.replays_on(torch.device("cpu")).recorder is None
    assert isinstance(graphs.replays_on(torch.device("cuda:1")).recorder, graphs.CudaRecorder)


class FakeCuda:
    """Stands in for torch.cuda: notes the order of what is asked of streams."""

    def __init__(self, monkeypatch):
        self.log, self.streams = [], ["current"]
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "Stream", lambda: self.stream_named("side"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream_named("current"))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: self.on(stream.name))
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: self.on("capture"))

    def stream_named(self, name):
        def wait_stream(other):
            self.log.append(f"{name} waits for {other.name}")

        return SimpleNamespace(name=name, wait_stream=wait_stream)

    @contextlib.contextmanager
    def on(self, name):
        self.streams.append(name)
        try:
            yield
        finally:
            self.streams.pop()


def test_a_cuda_graph_is_captured_after_a_warm_up_on_a_stream_of_its_own(monkeypatch):
    fake = FakeCuda(monkeypatch)
    recorder = graphs.CudaRecorder(torch.device("cuda"))
    assert recorder.capture(lambda: fake.log.append(fake.streams[-1])) == "graph"
    assert fake.log == [
        "side waits for current",
        *["side"] * 3,
        "current waits for side",
        "capture",
    ]


def test_a_failed_warm_up_is_waited_for(monkeypatch):
    fake = FakeCuda(monkeypatch)

    def fails():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        graphs.CudaRecorder(torch.device("cuda")).capture(fails)
    assert fake.log == ["side waits for current", "current waits for side"]
    assert fake.streams == ["current"]
