import pytest
import torch

from darec.model import softmax


@pytest.mark.parametrize("block", [1, 7, 1 << 19])
def test_it_is_the_plain_expression_with_the_same_gradients(block, monkeypatch):
    monkeypatch.setitem(softmax._BLOCK, "cpu", block * 11)
    monkeypatch.setattr(softmax, "_FEWEST_ROWS", 1)
    torch.manual_seed(0)
    rows, columns = torch.randn(23, 4, requires_grad=True), torch.randn(11, 4, requires_grad=True)
    skipped = torch.tensor([0, 0, 5, 22]), torch.tensor([3, 4, 0, 10])
    weights = torch.randn(23)
    scores = (rows @ columns.T).index_put(skipped, torch.tensor(-torch.inf))
    expected = torch.autograd.grad((torch.logsumexp(scores, 1) * weights).sum(), [rows, columns])
    value = softmax.log_sum_exp(rows, columns, skipped)
    assert torch.allclose(value, torch.logsumexp(scores, 1), atol=1e-6)
    for mine, theirs in zip(torch.autograd.grad((value * weights).sum(), [rows, columns]), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_great_scores_do_not_overflow():
    rows = torch.full((2, 3), 100.0, requires_grad=True)
    value = softmax.log_sum_exp(rows, torch.ones(5, 3))
    value.sum().backward()
    assert torch.allclose(value, 300 + torch.log(torch.tensor(5.0)))
    assert torch.isfinite(rows.grad).all()


def test_a_row_that_skips_everything_has_no_gradient():
    rows, columns = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    value = softmax.log_sum_exp(rows, columns, (torch.tensor([1, 1]), torch.tensor([0, 1])))
    torch.nn.functional.softplus(value).sum().backward()
    assert value[1] == -torch.inf
    assert torch.equal(rows.grad[1], torch.zeros(3))
    assert torch.isfinite(columns.grad).all()


def test_distillation_is_least_at_the_teacher():
    rows, columns = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    shares = torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0)
    entropy = -(shares * shares.log()).sum().item()
    same, halves = (rows, columns), torch.full((2,), 0.5)
    assert softmax.distillation(same, same, halves).item() == pytest.approx(entropy, rel=1e-6)
    assert softmax.distillation((-rows, columns), same, halves) > entropy
    weighted = softmax.distillation(same, same, torch.tensor([0.5, 0.25]))
    assert weighted.item() == pytest.approx(0.75 * entropy, rel=1e-6)


@pytest.mark.parametrize("block", [1, 7, 1 << 19])
def test_distillation_and_its_gradients_are_those_of_the_plain_expression(block, monkeypatch):
    monkeypatch.setitem(softmax._BLOCK, "cpu", block * 11)
    monkeypatch.setattr(softmax, "_FEWEST_ROWS", 1)
    torch.manual_seed(0)
    rows, columns, teacher_rows, teacher_columns = (
        torch.randn(n, d, dtype=torch.float64, requires_grad=d == 3) for n, d in ((20, 3), (11, 3), (20, 5), (11, 5))
    )
    shares, weights = torch.softmax(teacher_rows @ teacher_columns.T, 1), torch.rand(20, dtype=torch.float64)
    plain = -(weights[:, None] * shares * (rows @ columns.T).log_softmax(1)).sum()
    value = softmax.distillation((rows, columns), (teacher_rows, teacher_columns), weights)
    torch.testing.assert_close(value, plain)
    expected, mine = (torch.autograd.grad(3 * each, [rows, columns]) for each in (plain, value))
    torch.testing.assert_close(mine, expected)
