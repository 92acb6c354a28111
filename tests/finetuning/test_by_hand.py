"""Two epochs of a tiny network, step by step against the losses of a loop worked out by hand.

The loop below knows the original only from what is known of it: order of operations, rates,
update rules, which patches stay. It computes in float64 and takes from `streams` nothing but the
random numbers.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from evar import Adapter
from evar.data import manifests, own_sounds, targets
from evar.finetuning import loop, streams
from evar.finetuning.checkpoint import Place
from evar.finetuning.jobs import Job
from evar.finetuning.settings import Settings, usual
from evar.finetuning.streams import Purpose
from evar.finetuning.waveforms import Waveforms

SEED, FOLD, EPOCHS, BATCH = 43, 0, 2, 3
ROWS, COLUMNS, DIM, CLASSES = 4, 8, 3, 2


class Patches(Adapter):
    """Patches of one value each: a projection, a token added to all of them, one block."""

    sample_rate, embed_dim, blank = 16000, DIM, 0.0

    def __init__(self):
        super().__init__()
        drawn = torch.Generator().manual_seed(5)
        self.token = nn.Parameter(torch.randn(DIM, generator=drawn))
        self.project = nn.Linear(1, DIM)
        self.blocks = nn.ModuleList([nn.Linear(DIM, DIM)])
        for module in (self.project, *self.blocks):
            for p in module.parameters():
                nn.init.normal_(p, generator=drawn)

    def features(self, audio):
        return 10 * audio[:, :3200].view(len(audio), ROWS, COLUMNS, 100).abs().mean(dim=3)

    def patch_grid(self, features):
        return ROWS, COLUMNS

    def encode(self, features):
        x = self.project(features.flatten(1)[..., None]) + self.token  # (B, F' T', D)
        if self.keep is not None:
            x = x.gather(1, self.keep[..., None].expand(-1, -1, DIM))
        return torch.tanh(self.blocks[0](x))


class Hand:
    """The original's loop: forward pass, loss and updates spelt out, in float64."""

    def __init__(self, settings):
        self.s = settings
        state = Patches().state_dict()
        self.w = {name: t.double().requires_grad_() for name, t in state.items()}
        head = torch.empty(CLASSES, DIM)
        drawn = streams.generator(Purpose.HEAD, SEED, FOLD)
        nn.init.normal_(head, std=0.01, generator=drawn)
        self.w["head"] = head.double().requires_grad_()
        self.w["head bias"] = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
        if settings.freeze == "patch_embed":  # weight and bias of the projection; not the token
            for name in ("project.weight", "project.bias"):
                self.w[name] = self.w[name].detach()
        self.memory = {name: {} for name in self.w}
        self.steps = 0

    def loss(self, features, y, keep):
        """features (B, F, T), y (B, C), keep: for each clip the patches that stay."""
        rows = []
        for clip, kept in zip(features, keep, strict=True):
            x = clip.flatten()[kept, None] @ self.w["project.weight"].T + self.w["project.bias"]
            x = (x + self.w["token"]) @ self.w["blocks.0.weight"].T + self.w["blocks.0.bias"]
            rows.append(torch.tanh(x).mean(dim=0))
        z = torch.stack(rows)
        z = (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + 1e-5).sqrt()
        logits = z @ self.w["head"].T + self.w["head bias"]
        return -(y * torch.log_softmax(logits, dim=1)).sum() / (len(y) * CLASSES)

    def update(self, rate):
        self.steps += 1
        with torch.no_grad():
            for name, p in self.w.items():
                if p.requires_grad:
                    getattr(self, self.s.optimizer)(p, self.memory[name], rate)
                    p.grad = None

    def sgd(self, p, memory, rate):
        memory["v"] = 0.9 * memory.get("v", 0) + p.grad
        p -= rate * memory["v"]

    lars_m2d = sgd  # without weight decay no parameter has a trust ratio

    def adamw(self, p, memory, rate):
        p *= 1 - rate * self.s.weight_decay  # one-dimensional ones too
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * p.grad
        memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * p.grad**2
        memory["most"] = torch.maximum(memory.get("most", memory["v"]), memory["v"])
        spread = (memory["most"] / (1 - 0.95**self.steps)).sqrt() + 1e-8
        p -= rate / (1 - 0.9**self.steps) * memory["m"] / spread

    def kept(self, epoch, step, size):
        """Which patches each clip keeps: counts once a batch, rows and columns for each clip."""
        m = self.s.patchout
        if not m:
            return [torch.arange(ROWS * COLUMNS)] * size
        key = (SEED, FOLD, epoch, step)
        u = torch.rand((), generator=streams.generator(Purpose.PATCHOUT, *key), dtype=torch.float64)
        high = min(ROWS - 1, math.floor((ROWS * m + 1) * u))
        wide = math.floor(COLUMNS * max(m + 0.5 / COLUMNS - high / ROWS, 0))
        found = []
        for place in range(size):
            drawn = streams.generator(Purpose.PATCHOUT, *key, place)
            marked_rows = set(torch.randperm(ROWS, generator=drawn)[:high].tolist())
            marked_columns = set(torch.randperm(COLUMNS, generator=drawn)[:wide].tolist())
            marked = [
                i
                for i in range(ROWS * COLUMNS)
                if i // COLUMNS in marked_rows or i % COLUMNS in marked_columns
            ]
            others = [i for i in range(ROWS * COLUMNS) if i not in marked]
            first = [*marked, *others] if self.s.patchout_form == "m2d" else others
            found.append(torch.tensor(first[: (ROWS - high) * (COLUMNS - wide)]))
        return found

    def run(self, clips, classes):
        """clips (N, S) float32 and their classes (N,): the loss of every step."""
        losses, n = [], -(-len(clips) // BATCH)
        for epoch in range(EPOCHS):
            order = streams.rng(Purpose.ORDER, SEED, FOLD, epoch).permutation(len(clips))
            for step in range(n):
                rows = order[step * BATCH : (step + 1) * BATCH]
                x, y = clips[rows], torch.eye(CLASSES)[classes[rows]]
                x = Patches().features(x) if self.s.domain == "spectrogram" else x
                if self.s.mixup:
                    x, y = self.mixed(x, y, epoch, step)
                x = x if x.ndim == 3 else Patches().features(x)
                loss = self.loss(x.double(), y, self.kept(epoch, step, len(rows)))
                losses.append(loss.item())
                loss.backward()
                self.update(self.rate(max(0, epoch * n + step - 1) / n))  # set after each step
        return losses

    def mixed(self, x, y, epoch, step):
        drawn = streams.generator(Purpose.MIXUP, SEED, FOLD, epoch, step)
        partner = torch.randperm(len(x), generator=drawn)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=drawn)))
        share = rng.beta(self.s.mixup, self.s.mixup, size=len(x)).tolist()
        pairs = list(zip(share, partner.tolist(), strict=True))
        return (
            torch.stack([a * x[i] + (1 - a) * x[j] for i, (a, j) in enumerate(pairs)]),
            torch.stack([a * y[i] + (1 - a) * y[j] for i, (a, j) in enumerate(pairs)]),
        )

    def rate(self, t):
        lr, w, whole = self.s.lr, self.s.warmup, self.s.epochs
        return lr * t / w if t < w else 1e-7 + (lr - 1e-7) / 2 * (1 + math.cos(math.pi * t / whole))


def paper(task, **more):
    """The settings of one of the paper's tasks, but short, and without SpecAugment and crops."""
    short = {"epochs": EPOCHS, "warmup": 1, "batch_size": BATCH, "freq_mask": 0, "time_mask": 0}
    short |= {"rrc": False, "balanced": False, "epoch_clips": None, "select": "last"}
    return Settings(**usual(task) | short | more)


def losses_of(settings, of_hand, clips, tmp_path):
    """The losses of every step of the real loop, and of the one by hand with its settings."""
    task = own_sounds.task_from_csv(clips.csv)
    manifest = manifests.open_task(task, tmp_path / "data", source=clips.root)
    y = targets.encode_labels(manifest, targets.class_names(manifest))
    (fold,) = targets.folds_of(manifest)
    job = Job(fold, fold.train, None, "none", SEED, FOLD, Place(tmp_path / "place"))
    waveforms, reports = Waveforms(manifest, 16000), []
    loop.train(job, Patches(), waveforms, y, settings, on_step=reports.append)
    ours = [report.loss for report in reports if report.valid is None][: EPOCHS * 5]
    ours = [loss for i, loss in enumerate(ours) if i % 5 != 4]  # the fifth ends an epoch
    (sounds,) = waveforms.stream([[(row, 0) for row in fold.train]])
    hand = Hand(of_hand)
    return ours, hand.run(sounds, y[fold.train]), hand, job


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        (paper("as"), 7),
        (paper("as20k"), 7),
        (paper("esc50"), 5),
        (paper("spcv2", patchout_form="plain"), 7),
        (paper("vc1", weight_decay=0.1, lr=0.1), 7),
    ],
    ids=["as", "as20k", "esc50", "plain patchout", "vc1"],
)
def test_every_loss_of_two_epochs_is_that_worked_out_by_hand(settings, trained, clips, tmp_path):
    ours, by_hand, hand, job = losses_of(settings, settings, clips, tmp_path)
    assert ours == pytest.approx(by_hand, rel=2e-5)
    assert len(set(by_hand)) == 8
    assert sum(p.requires_grad for p in hand.w.values()) == trained
    projection = job.place.weights()[0]["project.weight"]
    assert projection.equal(Patches().project.weight) == (settings.freeze == "patch_embed")
    if settings.optimizer == "adamw":  # its steps magnify the rounding of gradients of almost 0
        return
    for ours, theirs in weights_of(hand, job):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def weights_of(hand, job):
    """Pairs of tensors: those that the loop has kept, and those of the loop by hand."""
    kept, _ = job.place.weights()
    names = {"head": "evar_head.linear.weight", "head bias": "evar_head.linear.bias"}
    return [(kept[names.get(name, name)].double(), t.detach()) for name, t in hand.w.items()]


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("as", {"optimizer": "lars"}),
        ("as", {"domain": "waveform"}),
        ("as", {"patchout_form": "plain"}),
        ("vc1", {"decay_bias": False}),
    ],
)
def test_weights_show_each_of_the_original_s_ways(task, change, clips, tmp_path):
    """With the plain form of one of them the loop ends with other weights than that by hand."""
    more = {"weight_decay": 0.1, "lr": 0.1} if task == "vc1" else {}
    before = paper(task, **more)
    *_, hand, job = losses_of(replace(before, **change), before, clips, tmp_path)
    assert not all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in weights_of(hand, job))
