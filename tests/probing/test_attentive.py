"""Attentive pooling: torch's own attention, gradients by finite differences, ragged clips."""

import numpy as np
import pytest
import torch

from evar.probing import attentive, probe
from evar.probing.attentive import AttentivePool, Frames
from evar.probing.autograd import Job, fit
from evar.probing.probe import ProbeSettings


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ragged(count=120, dim=8, seed=0):
    """Clips of 3 to 9 frames; one of them, anywhere, tells the class."""
    rng = np.random.default_rng(seed)
    marks = 3 * rng.standard_normal((3, dim))
    y = rng.integers(0, 3, count)
    clips = [rng.standard_normal((rng.integers(3, 10), dim)).astype(np.float32) for _ in y]
    for clip, c in zip(clips, y, strict=True):
        clip[rng.integers(len(clip))] += marks[c].astype(np.float32)
    return clips, y


@pytest.mark.parametrize("queries", [1, 3])
def test_pooling_is_that_of_torchs_multi_head_attention(queries):
    pool = AttentivePool(12, 5, queries=queries, heads=4, generator=generator())
    frames, mask = attentive.padded(
        [
            np.random.default_rng(i).standard_normal((n, 12)).astype(np.float32)
            for i, n in enumerate((3, 7, 1))
        ]
    )
    theirs = torch.nn.MultiheadAttention(12, 4, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([torch.eye(12), pool.keys, pool.values]))
        theirs.out_proj.weight.copy_(torch.eye(12))
        asked = pool.queries.expand(3, -1, -1)
        pooled, weights = theirs(
            asked, frames, frames, key_padding_mask=~mask, average_attn_weights=False
        )
        expected = pooled.flatten(1) @ pool.weight.T + pool.bias
        torch.testing.assert_close(pool(frames, mask), expected, atol=1e-5, rtol=1e-5)
        ours = pool.attention(frames, mask)  # (B, J, H, T)
        torch.testing.assert_close(ours, weights.transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    pool = AttentivePool(6, 3, queries=2, heads=2, generator=generator()).double()
    frames, mask = attentive.padded(
        [np.random.default_rng(i).standard_normal((n, 6)) for i, n in enumerate((2, 4))]
    )
    names, values = zip(*pool.named_parameters(), strict=True)

    def logits(*parameters):
        call = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(pool, call, (frames, mask))

    assert torch.autograd.gradcheck(logits, values)


def test_padding_is_not_attended_to():
    pool = AttentivePool(8, 3, queries=2, heads=4, generator=generator())
    clips, _ = ragged(5)
    together = pool(*attentive.padded(clips))
    for clip, of_clip in zip(clips, together, strict=True):
        alone = pool(*attentive.padded([clip]))
        torch.testing.assert_close(alone[0], of_clip, atol=1e-5, rtol=1e-5)


def test_queries_have_class_weights_of_their_own():
    pool = AttentivePool(8, 3, queries=4, heads=2, generator=generator())
    assert pool.weight.shape == (3, 4 * 8)


def test_a_clip_without_frames_is_refused():
    with pytest.raises(ValueError, match="no frame"):
        attentive.padded([np.ones((2, 3)), np.ones((0, 3))])


def test_heads_divide_the_embedding():
    assert [attentive.heads_for(d) for d in (768, 64, 3, 12, 7)] == [8, 8, 3, 6, 7]


def test_frames_are_standardised_by_the_training_frames():
    clips, _ = ragged(20)
    rows = np.arange(0, 20, 2)
    joined = np.concatenate([clips[i] for i in rows])
    mean, scale = attentive.frame_scaler(clips, rows)
    expected = probe.scaler(joined, np.arange(len(joined)))
    np.testing.assert_allclose(mean, expected[0], rtol=1e-10)
    np.testing.assert_allclose(scale, expected[1], rtol=1e-10)
    frames, mask = Frames(clips).scaled_by(rows)(np.array([3, 4]))
    assert mask.sum(dim=1).tolist() == [len(clips[3]), len(clips[4])]
    np.testing.assert_allclose(frames[0, : len(clips[3])], (clips[3] - mean) / scale, atol=1e-5)


def test_half_precision_is_storage_only():
    clips, y = ragged(40)
    halves = [clip.astype(np.float16) for clip in clips]
    frames, _ = Frames(halves).scaled_by(np.arange(20))(np.arange(5))
    assert frames.dtype == torch.float32


def test_attention_finds_what_the_mean_over_time_loses():
    clips, y = ragged(600)
    train, valid, test = np.split(np.arange(600), [400, 500])
    job = Job(train, valid, test, seed=1, rates=(1e-2,))
    (fitted,) = fit(
        Frames(clips),
        y,
        job,
        lambda g: AttentivePool(8, 3, queries=1, heads=1, generator=g),
        ProbeSettings(epochs=30),
    )
    means = np.stack([clip.mean(axis=0) for clip in clips])
    (linear,) = probe.fit(means, y, [probe.Job(train, valid, test, 1)], ProbeSettings(lr=1e-2))
    assert probe.score(fitted.logits, y[test]) > probe.score(linear.logits, y[test]) + 0.05
