"""Whitened text: agrees with the plain formula, and takes no copy of the text in double precision."""

import torch

from darec.common.interactions import Representations
from darec.model.whitening import whiten
from tests.memory import peak_growth


def plainly_whitened(text: Representations, dims: int) -> torch.Tensor:
    rows = torch.cat([side - side.mean(0) for side in (text.user, text.item)]).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    return (rows @ vectors * values.clamp_min(1e-9).rsqrt()).float()


def test_blocks_give_what_one_product_gives():
    torch.manual_seed(0)
    text = Representations(torch.randn(20_000, 24) @ torch.randn(24, 24) + 3, n_users=8_500)
    expected = plainly_whitened(text, 10)
    found = whiten(text, 10).nodes
    signs = (found * expected).sum(0).sign()  # a component and its opposite are one
    torch.testing.assert_close(found * signs, expected, rtol=1e-5, atol=1e-5)


def test_relaxed_whitening_leaves_a_part_of_the_variance():
    torch.manual_seed(0)
    text = Representations(torch.randn(4_000, 6) * torch.tensor([9.0, 5, 3, 2, 1, 0.5]), n_users=1_500)
    given = whiten(text, 6, 0).nodes.var(0, correction=0)
    for strength in (0.0, 0.5, 1.0):
        variance = whiten(text, 6, strength).nodes.var(0, correction=0)
        torch.testing.assert_close(variance, given ** (1 - strength), rtol=0.01, atol=0)


def test_memory_is_that_of_the_result():
    rows, width, dims = 200_000, 128, 32
    grown = peak_growth(
        "import torch\nfrom darec.common.interactions import Representations\n"
        "from darec.model.whitening import whiten\n"
        f"text = Representations(torch.rand({rows}, {width}), {rows // 2})\n"
        f"whiten(Representations(text.nodes[:9000], 4500), {dims})",
        f"whiten(text, {dims})",
    )
    result = 4 * rows * dims
    assert grown < result + 2**27  # the text in double precision would be 205 MB, and was there twice
