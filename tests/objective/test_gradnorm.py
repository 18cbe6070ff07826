"""GradNorm: where it drives the weights, and that it leaves the step's own gradients alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ranking.objective.gradients import task_gradients
from ranking.objective.gradnorm import GradNormConfig, GradNormWeighting
from ranking.objective.loss import Objective, ObjectiveConfig
from ranking.schema import Task


class Net(nn.Module):
    """A shared layer under two heads, and the loss of each task on fixed rows."""

    def __init__(self, scale: float = 1.0, **section: object) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        tasks = [{"name": name, "label": "x", "loss": "mse"} for name in ("a", "b")]
        config = ObjectiveConfig.model_validate({"weighting": {"type": "gradnorm"} | section})
        self.objective = Objective(config, tuple(map(Task.model_validate, tasks)), 1)
        self.x, labels = torch.randn(64, 5, generator=draw), torch.randn(64, 2, generator=draw)
        self.labels, self.scale = labels, torch.tensor([scale, 1.0])
        self.shared, self.heads = nn.Linear(5, 4), nn.Linear(4, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=draw)
        self.objective.weighting.attach(self.layer)

    def layer(self) -> list[tuple[nn.Parameter, slice]]:
        return [(parameter, slice(None)) for parameter in self.shared.parameters()]

    def shares(self, present: tuple[float, float] = (1, 1)) -> Tensor:
        logits = self.heads(torch.tanh(self.shared(self.x)))
        return ((logits - self.labels) ** 2).mean(0) * self.scale * torch.tensor(present)

    def loss(self, step: int = 0, present: tuple[float, float] = (1, 1)) -> Tensor:
        return self.objective(self.shares(present), 0, step, counts=64 * torch.tensor(present))

    @property
    def weights(self) -> Tensor:
        return self.objective.weighting(0, 0)


def norms(net: Net) -> Tensor:
    return net.weights * task_gradients(net.shares(), net.layer).norm(dim=1)


def test_a_task_gradient_is_that_of_its_loss_alone() -> None:
    net = Net()
    rows = task_gradients(net.shares(), net.layer)
    for task in range(2):
        net.zero_grad()
        net.shares()[task].backward()
        torch.testing.assert_close(rows[task], torch.cat([p.grad.flatten() for p in net.shared.parameters()]))


def test_only_the_shared_part_of_a_layer_counts() -> None:
    net = Net()
    whole = task_gradients(net.shares(), lambda: [(net.shared.weight, slice(None))])
    part = task_gradients(net.shares(), lambda: [(net.shared.weight, slice(1, 3))])
    torch.testing.assert_close(part, whole.view(2, 4, 5)[:, 1:3].flatten(1))


def test_measuring_changes_no_gradient_of_the_step() -> None:
    net, plain = Net(), Net(type="static")
    net.loss().backward()
    plain.loss().backward()
    for found, expected in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=0)


def test_a_task_of_a_hundredfold_loss_pulls_no_harder_than_the_other() -> None:
    net = Net(scale=100.0, alpha=0.0)
    before = norms(net)
    assert before[0] > 20 * before[1]
    for step in range(400):
        net.loss(step)
    after = norms(net)
    assert after[0] / after[1] == pytest.approx(1, abs=0.06)
    assert net.weights.sum() == pytest.approx(2)


def test_the_weights_are_positive_and_sum_to_the_tasks_all_along() -> None:
    net = Net(scale=1e6, learning_rate=0.5)
    for step in range(30):
        net.loss(step)
        assert net.weights.sum() == pytest.approx(2)
        assert (net.weights > 0).all()


def test_a_slow_task_may_pull_harder() -> None:
    """Task b has kept all of its first loss, a half: the targets differ by 2^alpha."""
    net = Net(alpha=1.0)
    net.loss()
    net.objective.weighting.first.mul_(torch.tensor([2.0, 1.0]))
    for step in range(1, 300):
        net.loss(step)
    slow, fast = norms(net)[1], norms(net)[0]
    assert slow / fast == pytest.approx(2, rel=0.06)


def test_one_step_is_the_papers_gradient_in_the_logarithms() -> None:
    net = Net(scale=3.0, alpha=0.5, learning_rate=0.1)
    pulls = task_gradients(net.shares(), net.layer).norm(dim=1)
    net.loss()
    assert pulls[0] > pulls[1]  # above and below the mean, as r = 1 at first
    moved = torch.tensor([-0.1, 0.1]) * pulls / pulls.mean()
    torch.testing.assert_close(net.weights, 2 * torch.softmax(moved, 0))


def test_a_task_that_weighs_nothing_is_left_out() -> None:
    """The others move as if it were not there, and are scaled to sum to their own number."""

    def weighting(*weights: float) -> GradNormWeighting:
        tasks = [Task(name=f"t{place}", label="x", weight=weight) for place, weight in enumerate(weights)]
        return GradNormWeighting(GradNormConfig(), tuple(tasks))

    three, two = weighting(1.0, 0.0, 1.0), weighting(1.0, 1.0)
    for loss in (1.0, 0.7, 0.5, 0.4):
        three._move(torch.tensor([loss, 9.0, 1.0]), torch.tensor([loss, 9.0, 1.0]), torch.ones(3, dtype=torch.bool))
        two._move(torch.tensor([loss, 1.0]), torch.tensor([loss, 1.0]), torch.ones(2, dtype=torch.bool))
    assert two(0, 0).tolist() != [1, 1]
    torch.testing.assert_close(three(0, 0)[[0, 2]], two(0, 0))
    assert three(0, 0)[1] == 0


def test_between_updates_and_while_evaluating_nothing_moves() -> None:
    net = Net(every=3)
    net.loss(1), net.loss(2)
    net.eval()
    net.loss(3)
    assert net.weights.tolist() == [1, 1]
    net.train()
    net.loss(3)
    assert net.weights.tolist() != [1, 1]


def test_a_task_without_examples_moves_nothing() -> None:
    net = Net(scale=100.0)
    for step in range(5):
        net.loss(step, present=(1, 0))
    assert net.weights.tolist() == [1, 1]
    assert net.objective.weighting.first[1] == 0
    assert net.objective.weighting.log_weights.isfinite().all()
