import math

import numpy as np
import pytest
import torch

from darec.model import losses, softmax

E1, E2 = [1.0, 0.0], [0.0, 1.0]


def test_bpr_by_hand():
    user, positive, negative = torch.tensor([E1, [1.0, 1.0]]), torch.tensor([[2.0, 0.0], E1]), torch.tensor([E2, E2])
    expected = (math.log1p(math.exp(-2.0)) + math.log(2)) / 2  # margins 2 and 0
    assert losses.bpr(user, positive, negative).item() == pytest.approx(expected, rel=1e-6)


def test_info_nce_by_hand():
    anchor, match = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    candidates = torch.tensor([[1.0, 1.0], [0.0, 5.0]])
    cosine = 1 / math.sqrt(2)
    expected = math.log(math.exp(cosine / 0.2) + 1) - cosine / 0.2
    assert losses.info_nce(anchor, match, candidates, 0.2).item() == pytest.approx(expected, rel=1e-5)


def test_orthogonality_by_hand():
    specific, shared = torch.tensor([E1, E1, [1.0, 1.0]]), torch.tensor([E2, [-4.0, 0.0], E1])
    assert losses.orthogonality(specific, shared).item() == pytest.approx((0 + 1 + 0.5) / 3, rel=1e-6)


def test_uniformity_by_hand():
    rows = torch.tensor([[2.0, 0.0], E2, [-1.0, 0.0]])  # squared distances 2, 4, 2 on the circle
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert losses.uniformity(rows).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
def test_structure_gap_is_the_frobenius_distance_of_similarity_matrices(similarity):
    left, right = torch.randn(50, 8, dtype=torch.float64), torch.randn(50, 5, dtype=torch.float64)
    a, b = left.numpy(), right.numpy()
    if similarity == "cosine":
        a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    expected = ((a @ a.T - b @ b.T) ** 2).sum() / 50**2
    assert losses.structure_gap(left, right, similarity).item() == pytest.approx(expected, rel=1e-9)


def test_structure_gap_does_not_see_a_rotation():
    rows = torch.randn(30, 4, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert losses.structure_gap(rows, rows @ rotation).item() == pytest.approx(0, abs=1e-12)


def test_structure_divergence_by_hand():
    left, right = torch.tensor([E1, [1.0, 1.0], E2]), torch.tensor([[4.0, 0.0], E1, E2])
    near, far = math.exp(1 / math.sqrt(2) / 0.5), 1.0  # of 45 and of 90 degrees, temperature 0.5
    wide, flat = [near / (near + far), far / (near + far)], [0.5, 0.5]
    sharp = [math.exp(1 / 0.25) / (math.exp(1 / 0.25) + 1), 1 / (math.exp(1 / 0.25) + 1)]

    def divergence(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    expected = (divergence(sharp, wide) + divergence(sharp, flat) + divergence(flat, wide[::-1])) / 3
    assert losses.structure_divergence(left, right, 0.5, 0.25).item() == pytest.approx(expected, rel=1e-5)


def test_structure_divergence_and_its_gradient_are_those_of_the_plain_expression():
    left, right = (torch.randn(12, width, dtype=torch.float64, requires_grad=True) for width in (3, 5))

    def shares(rows, temperature):
        rows = torch.nn.functional.normalize(rows, dim=-1)
        others = ~torch.eye(12, dtype=torch.bool)
        return torch.log_softmax((rows @ rows.T / temperature)[others].view(12, 11), 1)

    plain = torch.nn.functional.kl_div(shares(left, 0.2), shares(right, 0.1), log_target=True, reduction="sum") / 12
    value = losses.structure_divergence(left, right, 0.2, 0.1)
    torch.testing.assert_close(value, plain)
    gradients, expected = (torch.autograd.grad(each, (left, right)) for each in (value, plain))
    torch.testing.assert_close(gradients, expected)
    assert torch.autograd.gradcheck(lambda *rows: 3 * losses.structure_divergence(*rows, 0.2, 0.1), (left, right))
    assert losses.structure_divergence(left, left, 0.2, 0.2).item() == pytest.approx(0, abs=1e-12)


def test_a_teacher_that_wants_no_gradient_gets_none():
    left, right = torch.randn(5, 3, requires_grad=True), torch.randn(5, 4)
    losses.structure_divergence(left, right, 0.2, 0.1).backward()
    assert left.grad is not None
    assert right.grad is None


def test_structure_cross_entropy_is_the_divergence_and_the_teachers_entropy():
    left, teacher = torch.randn(12, 3, dtype=torch.float64, requires_grad=True), torch.randn(12, 5, dtype=torch.float64)
    unit = torch.nn.functional.normalize(teacher, dim=-1)
    scores = (unit @ unit.T / 0.1)[~torch.eye(12, dtype=torch.bool)].view(12, 11)
    entropy = torch.distributions.Categorical(logits=scores).entropy().mean()
    value = losses.structure_cross_entropy(left, losses.sharpened(teacher, 0.1), 0.2)
    plain = losses.structure_divergence(left, teacher, 0.2, 0.1) + entropy
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(*(torch.autograd.grad(3 * each, left) for each in (value, plain)))


def test_structure_cross_entropy_in_single_precision_is_about_that_in_double():
    """The teacher's scores may have gone through bfloat16."""
    left, teacher = torch.randn(300, 32, requires_grad=True), losses.sharpened(torch.randn(300, 256), 0.07)
    value = losses.structure_cross_entropy(left, teacher, 0.2)
    exact = losses.structure_cross_entropy(left.double(), teacher.double(), 0.2)
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    (gradient,), (expected,) = (torch.autograd.grad(each, left) for each in (value, exact))
    assert (gradient - expected).norm() < 0.02 * expected.norm()


def test_structure_cross_entropy_does_not_overflow_at_the_lowest_temperature():
    left, teacher = torch.randn(300, 3, requires_grad=True), torch.randn(300, 4)
    value = losses.structure_cross_entropy(left, losses.sharpened(teacher, 0.02), 0.02)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(left.grad).all()


@pytest.mark.parametrize(
    "loss",
    [
        losses.structure_gap,
        lambda left, right: losses.structure_gap(left, right, "inner"),
        lambda left, right: losses.structure_divergence(left, right, 0.2, 0.1),
        lambda left, right: losses.structure_cross_entropy(left, losses.sharpened(right, 0.1), 0.2),
        lambda left, right: losses.uniformity(left) + losses.uniformity(right),
    ],
)
def test_losses_of_bfloat16_rows_are_computed_in_float32(loss):
    torch.manual_seed(0)
    left = torch.randn(200, 16)
    right = (left + 0.05 * torch.randn(200, 16)).bfloat16()  # alike: squares of Gram matrices cancel out
    left = left.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(left, right)
        expected = loss(left.detach().double(), right.double())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)
    value.backward()
    assert torch.isfinite(left.grad).all()


def test_centre_relations_by_hand():
    left, right = torch.tensor([E1, E2, [-2.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = 2 * (1 + 1 + 0) / 6  # cosines 0, -1, 0 of the pairs against 1, 0, 0
    assert losses.centre_relations(left, losses.cosines(right)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("learns", [(True, True), (True, False), (False, True)])
def test_gradients_of_centre_relations_are_those_of_finite_differences(learns):
    torch.manual_seed(0)
    left, right = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    sides = [rows.requires_grad_(each) for rows, each in zip((left, right), learns, strict=True)]
    assert torch.autograd.gradcheck(lambda left, right: losses.centre_relations(left, losses.cosines(right)), sides)


def test_centre_gaps_by_hand():
    left, right = torch.tensor([E1, E2]), torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    half = 1 / math.sqrt(2)  # Z = [[half, 0], [half, 1]]
    assert losses.centre_matrix_gap(left, right).item() == pytest.approx((half - 1) ** 2 / 2 + 0.5 / 2, rel=1e-5)
    assert losses.centre_distance(left, right).item() == pytest.approx((1 + 4) / 2, rel=1e-6)


@pytest.mark.parametrize("block", [1, 7, 1 << 19])  # rows alone, a ragged last block, all at once
def test_mean_log_sum_exp_and_its_gradients_are_those_of_the_plain_expression(block, monkeypatch):
    monkeypatch.setitem(softmax._BLOCK, "cpu", block * 11)
    monkeypatch.setattr(softmax, "_FEWEST_ROWS", 1)
    anchor, candidates = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (20, 11))
    counts = torch.randint(1, 5, (20,))
    plain = (torch.logsumexp(anchor @ candidates.T, 1) * counts).sum() / counts.sum()
    torch.testing.assert_close(softmax.mean_log_sum_exp(anchor, candidates, counts), plain)
    assert torch.autograd.gradcheck(lambda a, c: 3 * softmax.mean_log_sum_exp(a, c, counts), (anchor, candidates))
    frozen = candidates.detach()  # its gradient is not computed
    assert torch.autograd.gradcheck(lambda a: 3 * softmax.mean_log_sum_exp(a, frozen, counts), (anchor,))


def test_mean_log_sum_exp_does_not_overflow():
    rows = torch.tensor([[200.0, 0.0]])
    assert softmax.mean_log_sum_exp(rows, rows).item() == pytest.approx(40_000)


def test_contrast_distinct_is_that_of_the_distinct_rows():
    first, second = (torch.randn(6, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    rows, distinct = torch.tensor([4, 1, 4, 0, 4, 1]), torch.tensor([0, 1, 4])
    repeats = torch.tensor([3, 2, 3, 1, 3, 2])
    expected = losses.info_nce(first[distinct], second[distinct], second[distinct], 0.3)
    found = losses.contrast_distinct(first[rows], second[rows], repeats, 0.3)
    torch.testing.assert_close(found, expected)
    for got, wanted in zip(*(torch.autograd.grad(each, (first, second)) for each in (found, expected)), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("negatives", ["all", "batch"])
def test_repeated_rows_count_as_often_between_views(negatives):
    first, second = torch.randn(6, 3), torch.randn(6, 3)
    rows = torch.tensor([4, 1, 4, 4])
    candidates = second if negatives == "all" else second[[1, 4]]
    expected = losses.info_nce(first[rows], second[rows], candidates, 0.3)
    torch.testing.assert_close(losses.contrast_views(first, second, rows, 0.3, negatives), expected)
