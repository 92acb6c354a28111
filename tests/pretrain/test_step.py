"""The gradient of a step does not depend on how the batch is cut up."""

import dataclasses

import pytest
import torch
import torch.multiprocessing as mp

from evar.parallel import SINGLE_PROCESS, World
from evar.pretrain.model import Pretrainer, shuffle
from evar.pretrain.overlap import Overlap
from evar.pretrain.step import Share, backward
from helpers.small import CONFIG

EXACT = dataclasses.replace(CONFIG, gather="with_grad", clap_weight=1.0)


def batch(config, size=8, text_dim=10) -> Share:
    generator = torch.Generator().manual_seed(1)
    shuffled, kept = shuffle(torch.rand(size, config.patches, generator=generator), 0.7)
    return Share(
        torch.randn(size, 80, 64, generator=generator),
        shuffled,
        kept,
        torch.randn(size, text_dim, generator=generator),
        torch.arange(size) % 4 != 1,  # some have no caption
    )


def part(share: Share, of: slice) -> Share:
    return Share(
        share.spectrogram[of],
        share.shuffled[of],
        share.kept,
        share.captions[of],
        share.captioned[of],
    )


def model_of(config) -> Pretrainer:
    torch.manual_seed(3)
    model = Pretrainer(config, text_dim=10)
    with torch.no_grad():  # so that losses and gradients are not those of a fresh network only
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def step(config, share, world=SINGLE_PROCESS, bucket=None) -> tuple[dict, dict]:
    """Losses and gradients by name; bucket: bytes that are summed during the backward pass."""
    model = model_of(config)
    overlap = Overlap(list(model.parameters()), world, bucket=bucket) if bucket else None
    found = backward(model, model, share, config, world, mixed=False, overlap=overlap)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"total": found.total, "masked": found.masked, "clap": found.clap}, gradients


def assert_same(a: tuple[dict, dict], b: tuple[dict, dict]) -> None:
    for ours, theirs in zip(a, b, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("objective", ["m2d_clap", "m2d", "msm_mae"])
@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_parts_of_a_batch_give_the_whole_gradient(objective, micro_batch):
    config = dataclasses.replace(EXACT, objective=objective)
    share = batch(config)
    whole = step(config, share)
    assert_same(step(dataclasses.replace(config, micro_batch=micro_batch), share), whole)


def test_the_gradient_is_that_of_one_expression():
    """All of a step by autograd in one go, contrastive loss included."""
    from evar.pretrain import losses

    share, model = batch(EXACT), model_of(EXACT)
    predicted, target, encoded = model(share.spectrogram, share.shuffled, share.kept)
    audio, text = model.project(encoded), model.project_text(share.captions)
    loss = losses.masked_prediction(predicted, target) + losses.nt_xent(
        audio, text, share.captioned, model.logit_scale
    )
    loss.backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    _, gradients = step(EXACT, share)
    assert_same((gradients, {}), (expected, {}))


def difference(config, share) -> dict:
    """The contrastive part of each gradient: with it, less without."""
    with_, without = (
        step(dataclasses.replace(config, clap_weight=w), share)[1]
        for w in (config.clap_weight, 0.0)
    )
    return {name: with_[name] - without[name] for name in with_}


def test_paper_scaling_divides_the_encoders_gradient_by_four():
    share = batch(EXACT)
    true = difference(EXACT, share)
    paper = difference(dataclasses.replace(EXACT, gather="paper"), share)
    for name, gradient in true.items():
        share_of = 1.0 if name == "logit_scale" else 0.25
        torch.testing.assert_close(paper[name], share_of * gradient, rtol=1e-3, atol=1e-6, msg=name)


def _process(rank: int, size: int, folder: str, gather: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{gather}", rank=rank, world_size=size
    )
    config = dataclasses.replace(EXACT, gather=gather)
    share = batch(config)
    each = len(share.spectrogram) // size
    own = part(share, slice(rank * each, (rank + 1) * each))
    torch.save(step(config, own, World(rank, size)), f"{folder}/{gather}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("gather", ["with_grad", "paper", "without_grad"])
def test_two_processes_give_the_gradient_of_one(gather, tmp_path):
    mp.start_processes(_process, (2, str(tmp_path), gather), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{gather}-{rank}.pt") for rank in (0, 1))
    assert_same(first, second)
    config = dataclasses.replace(EXACT, gather=gather)
    share = batch(config)
    if gather != "without_grad":
        assert_same(first, step(config, share))
        return
    true, without = (
        difference(EXACT, share),
        step(dataclasses.replace(EXACT, clap_weight=0.0), share),
    )
    for name, gradient in true.items():  # divided by the two processes there are
        share_of = 1.0 if name == "logit_scale" else 0.5
        expected = without[1][name] + share_of * gradient
        torch.testing.assert_close(first[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)


def _overlapping(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size
    )
    for micro_batch in (None, 2):
        config = dataclasses.replace(EXACT, micro_batch=micro_batch)
        each = 8 // size
        own = part(batch(config), slice(rank * each, (rank + 1) * each))
        losses, gradients = step(config, own, World(rank, size))
        for bucket in (1, 2000, 2**30):
            overlapped = step(config, own, World(rank, size), bucket=bucket)
            assert overlapped[1].keys() == gradients.keys()
            for name, gradient in gradients.items():
                assert torch.equal(overlapped[1][name], gradient), (name, bucket)
            assert torch.equal(overlapped[0]["total"], losses["total"])
    torch.distributed.destroy_process_group()


def test_sums_during_the_backward_pass_are_those_after_it(tmp_path):
    """Of two processes to the bit: a + b is b + a."""
    mp.start_processes(_overlapping, (2, str(tmp_path)), nprocs=2, start_method="fork")


def test_buckets_hold_every_trained_parameter_once_from_the_last_to_the_first():
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 4, 1, 2)]
    parameters[1].requires_grad_(False)
    made = Overlap(parameters, World(0, 2), bucket=9)
    assert [[p.numel() for p in bucket] for bucket in made.buckets] == [[2, 1], [3]]
