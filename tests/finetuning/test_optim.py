"""Learning rates, parameter groups, optimisers and averages, against cases worked by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from evar.errors import UserError
from evar.finetuning import optim, settings


def test_learning_rate_by_hand():
    rate = {t: optim.learning_rate(t, lr=0.5, warmup=5, epochs=200) for t in (0, 2.5, 5, 100, 200)}
    assert rate[0] == 0
    assert rate[2.5] == 0.25
    # cos(pi / 40) = 0.9969173337: 1e-7 + 0.49999990 / 2 * 1.9969173337
    assert rate[5] == pytest.approx(0.4992293336, rel=1e-9)
    assert rate[100] == pytest.approx(1e-7 + (0.5 - 1e-7) / 2, rel=1e-12)
    assert rate[200] == pytest.approx(1e-7, rel=1e-9)


@pytest.mark.parametrize(
    ("lr", "warmup", "epochs", "n"),
    [(2.0, 15, 70, 3125), (0.5, 5, 200, 7), (5e-4, 5, 50, 100), (1e-3, 0, 10, 3)],
)
def test_learning_rate_of_every_step_is_the_closed_form(lr, warmup, epochs, n):
    for step in range(epochs * n):
        t = step // n + step % n / n
        rate = optim.learning_rate(t, lr=lr, warmup=warmup, epochs=epochs)
        if t < warmup:
            expected = lr * t / warmup
        else:
            expected = 1e-7 + (lr - 1e-7) * 0.5 * (1.0 + math.cos(math.pi * t / epochs))
        assert rate == pytest.approx(expected, rel=1e-12, abs=1e-20)


def test_learning_rate_without_warm_up_begins_at_the_top_and_falls():
    rates = [optim.learning_rate(t / 10, lr=0.1, warmup=0, epochs=3) for t in range(31)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-7)


def test_layers_learn_more_slowly_towards_the_input_and_biases_do_not_decay():
    stem, block, head = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 4)
    groups = optim.parameter_groups(
        [list(stem.parameters()), list(block.parameters())],
        head.parameters(),
        lr=0.1,
        weight_decay=0.05,
        layer_decay=0.5,
    )
    found = {id(p): group for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == 6
    for module, scale in ((stem, 0.25), (block, 0.5), (head, 1.0)):
        for parameter, decay in ((module.weight, 0.05), (module.bias, 0.0)):
            group = found[id(parameter)]
            assert group["lr_scale"] == scale
            assert group["lr"] == pytest.approx(0.1 * scale)
            assert group["weight_decay"] == decay


def test_without_layer_decay_there_are_two_groups():
    stem, head = nn.Linear(2, 3), nn.Linear(3, 4)
    groups = optim.parameter_groups(
        [stem.parameters()], head.parameters(), lr=0.1, weight_decay=0.0
    )
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0]


def test_frozen_parameters_are_in_no_group():
    stem, head = nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 4)
    groups = optim.parameter_groups(
        [stem.parameters()], head.parameters(), lr=0.1, weight_decay=0.1
    )
    found = {id(p) for group in groups for p in group["params"]}
    assert found == {id(head.weight), id(head.bias)}


def one(values, *, ndim):
    shape = (1, -1) if ndim == 2 else (-1,)
    return nn.Parameter(torch.tensor(values, dtype=torch.float64).reshape(shape))


def stepped(name, parameters, gradients, *, lr, weight_decay=0.0):
    """The parameters after steps with the given gradients, one list of gradients a step."""
    groups = optim.parameter_groups([], parameters, lr=lr, weight_decay=weight_decay)
    optimiser = optim.build(name, groups, lr=lr)
    for step in gradients:
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = torch.tensor(gradient, dtype=torch.float64).reshape(p.shape)
        optimiser.step()
    return [p.detach().flatten().tolist() for p in parameters]


def test_a_step_of_lars_by_hand():
    # ||w|| = 5, ||g|| = 0.5: a trust of 0.001 * 5 / 0.5 = 0.01. The bias is not adapted.
    weight, bias = one([3.0, 4.0], ndim=2), one([1.0, 1.0], ndim=1)
    w, b = stepped("lars", [weight, bias], [[[0.3, 0.4], [0.5, 0.0]]], lr=2.0)
    assert w == pytest.approx([3 - 2 * 0.01 * 0.3, 4 - 2 * 0.01 * 0.4], rel=1e-9)
    assert b == pytest.approx([1 - 2 * 0.5, 1.0], rel=1e-9)


def test_a_second_step_of_lars_has_nine_tenths_of_the_first():
    weight = one([3.0, 4.0], ndim=2)
    (w,) = stepped("lars", [weight], [[[0.3, 0.4]], [[0.0, 1.0]]], lr=1.0)
    # First: v = 0.01 * (0.3, 0.4), w = (2.997, 3.996), ||w|| = 4.995. Second: a trust of
    # 0.001 * 4.995 / 1, v = 0.9 * (0.003, 0.004) + (0, 0.004995).
    assert w == pytest.approx([2.997 - 0.0027, 3.996 - 0.0036 - 0.004995], rel=1e-9)


def test_lars_takes_weight_decay_into_its_trust():
    weight = one([3.0, 4.0], ndim=2)
    (w,) = stepped("lars", [weight], [[[0.3, 0.4]]], lr=1.0, weight_decay=0.1)
    # 0.001 * 5 / (0.5 + 0.1 * 5) = 0.005, of g + 0.1 w = (0.6, 0.8).
    assert w == pytest.approx([3 - 0.005 * 0.6, 4 - 0.005 * 0.8], rel=1e-9)


def test_lars_moves_weights_that_are_zero():
    (w,) = stepped("lars", [one([0.0, 0.0], ndim=2)], [[[0.3, 0.4]]], lr=1.0)
    assert w == pytest.approx([-0.3, -0.4])


def test_m2ds_lars_without_weight_decay_is_sgd_with_momentum():
    gradients = [[[0.3, 0.4], [0.5, 0.0]], [[0.0, 1.0], [-1.0, 0.2]], [[0.1, 0.1], [0.0, 0.0]]]

    def weights():
        return [one([3.0, 4.0], ndim=2), one([1.0, 1.0], ndim=1)]

    found = stepped("lars_m2d", weights(), gradients, lr=2.0)
    assert found == stepped("sgd", weights(), gradients, lr=2.0)
    # By hand: v = 0.3, 0.27, 0.343; 3 - 2 * (0.3 + 0.27 + 0.343).
    assert found[0][0] == pytest.approx(3 - 2 * (0.3 + 0.27 + 0.343), rel=1e-12)


def test_m2ds_lars_adapts_what_has_weight_decay():
    (w,) = stepped("lars_m2d", [one([3.0, 4.0], ndim=2)], [[[0.3, 0.4]]], lr=1.0, weight_decay=0.1)
    assert w == pytest.approx([3 - 0.005 * 0.6, 4 - 0.005 * 0.8], rel=1e-9)


def test_biases_decay_where_asked_for():
    layer = nn.Linear(2, 3)
    (group,) = optim.parameter_groups(
        [], layer.parameters(), lr=0.1, weight_decay=0.05, decay_bias=True
    )
    assert group["weight_decay"] == 0.05
    assert len(group["params"]) == 2


def test_sgd_has_momentum():
    (w,) = stepped("sgd", [one([1.0], ndim=1)], [[[1.0]], [[1.0]]], lr=0.1)
    assert w == pytest.approx([1 - 0.1 - 0.1 * 1.9])


def test_adamw_is_that_of_the_protocol():
    optimiser = optim.build("adamw", [{"params": [one([1.0], ndim=1)]}], lr=5e-4)
    assert isinstance(optimiser, torch.optim.AdamW)
    assert optimiser.defaults["betas"] == (0.9, 0.95)
    assert optimiser.defaults["amsgrad"]


@pytest.mark.parametrize("name", settings.OPTIMIZERS)
def test_every_optimiser_learns_and_carries_its_state(name):
    torch.manual_seed(0)

    def fresh():
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        groups = optim.parameter_groups([], model.parameters(), lr=1e-2, weight_decay=0.0)
        return model, optim.build(name, groups, lr=1e-2)

    def train(model, optimiser, steps):
        for _ in range(steps):
            optimiser.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimiser.step()
        return float(loss.detach())

    x = torch.randn(32, 4)
    model, optimiser = fresh()
    first = train(model, optimiser, 1)
    train(model, optimiser, 10)
    other, resumed = fresh()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    last = train(model, optimiser, 20)
    assert train(other, resumed, 20) == last
    assert last < first


def test_an_unknown_optimiser_is_refused_with_a_close_name():
    with pytest.raises(UserError, match="adamw"):
        optim.build("adam", [{"params": [one([1.0], ndim=1)]}], lr=0.1)


class TestEma:
    def model(self):
        model = nn.Linear(1, 1, dtype=torch.float64)
        nn.init.constant_(model.weight, 1.0)
        model.bias.requires_grad_(False)
        return model

    def test_the_average_is_that_of_its_definition(self):
        model = self.model()
        ema = optim.Ema(model, 0.9)
        for value in (2.0, 3.0):
            nn.init.constant_(model.weight, value)
            ema.update()
        # 0.9 * 1 + 0.1 * 2 = 1.1; 0.9 * 1.1 + 0.1 * 3 = 1.29
        assert ema.averages["weight"].item() == pytest.approx(1.29)
        assert set(ema.averages) == {"weight"}, "a frozen parameter needs no average"

    def test_the_model_has_the_averages_inside_and_its_own_weights_after(self):
        model = self.model()
        ema = optim.Ema(model, 0.5)
        nn.init.constant_(model.weight, 3.0)
        ema.update()

        def score():
            with ema.applied():
                assert model.weight.item() == 2.0
                raise RuntimeError("stopped")

        with pytest.raises(RuntimeError, match="stopped"):
            score()
        assert model.weight.item() == 3.0
        assert ema.averages["weight"].item() == 2.0

    def test_it_is_carried_from_run_to_run(self):
        model = self.model()
        ema = optim.Ema(model, 0.5)
        nn.init.constant_(model.weight, 3.0)
        ema.update()
        other = optim.Ema(model, 0.5)
        other.load_state_dict({name: value.clone() for name, value in ema.state_dict().items()})
        for each in (ema, other):
            each.update()
        assert torch.equal(ema.averages["weight"], other.averages["weight"])
