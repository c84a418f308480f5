"""What is special of each backbone, computed by hand or by a plain dense version."""

import pytest
import torch
from torch.nn import functional

from darec.common.errors import UserError
from darec.common.interactions import Batch, Pairs, Representations
from darec.model import losses
from darec.model.backbones import build
from darec.model.propagation import Adjacency
from schemas.backbones import AutoCFConfig, DCCFConfig, GCCFConfig, NGCFConfig, SGLConfig, SimGCLConfig

ONE_EDGE = Pairs(torch.tensor([0]), torch.tensor([0]))  # one user, one item: A swaps the two rows
PATH = Pairs(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 2]))  # nodes 3-0-4-1-5-2
BATCH = Batch(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), torch.tensor([2, 0, 0]))


def made(config, pairs=PATH, dim=4, seed=0):
    torch.manual_seed(seed)
    users, items = int(pairs.users.max()) + 1, int(pairs.items.max()) + 1
    return build(config, Adjacency.normalised(pairs, users, items), users, dim)


def test_gccf_puts_layers_with_self_loops_side_by_side():
    backbone = made(GCCFConfig(layers=2), ONE_EDGE, dim=1)
    rows = backbone(torch.tensor([[1.0], [3.0]]))  # S is 1/2 everywhere: both become the mean
    torch.testing.assert_close(rows, torch.tensor([[1.0, 2.0, 2.0], [3.0, 2.0, 2.0]]))


def test_self_loops_follow_degrees():
    adjacency = Adjacency.normalised(PATH, 3, 3)
    dense = (adjacency.matrix.to_dense() > 0).double() + torch.eye(6)
    scale = dense.sum(1).rsqrt()
    looped = adjacency.with_self_loops()
    torch.testing.assert_close(looped.matrix.to_dense(), (dense * scale[:, None] * scale).float())
    dropped = looped.drop(0.5).matrix.to_dense()
    assert torch.equal(dropped, dropped.T)


def test_ngcf_layer_by_hand():
    backbone = made(NGCFConfig(layers=1), ONE_EDGE, dim=2)
    with torch.no_grad():
        backbone.messages[0].weight.copy_(torch.eye(2))
        backbone.affinities[0].weight.copy_(2 * torch.eye(2))
    nodes = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    layer = torch.tensor([3.0 + 2 * 2.0, 0.2 * (2.0 + 2 * -3.0)])  # sum of the two + 2 x their product; the last leaks
    rows = backbone.eval()(nodes)
    torch.testing.assert_close(rows[:, :2], nodes)
    torch.testing.assert_close(rows[:, 2:], functional.normalize(layer, dim=0).expand(2, 2))


def test_sgl_without_dropping_contrasts_the_graph_with_itself():
    backbone = made(SGLConfig(edge_keep=1.0, weight=2.0, temperature=0.5))
    nodes = torch.randn(6, 4)
    final = Representations(backbone(nodes), 3)
    user, item = final.user, final.item
    expected = sum(
        losses.info_nce(side[rows], side[rows], side, 0.5)
        for side, rows in ((user, BATCH.users), (item, BATCH.items), (item, BATCH.negatives))
    )
    torch.testing.assert_close(backbone.losses(nodes, final, BATCH)["contrast"], 2 * expected)


def test_simgcl_noise_has_the_given_length_and_keeps_signs():
    backbone = made(SimGCLConfig(noise=0.3))
    rows = torch.randn(6, 8)
    noise = backbone._noise(rows)
    torch.testing.assert_close(noise.view(6, 2, 4).norm(dim=-1), torch.full((6, 2), 0.3))
    assert (noise * rows >= 0).all()


def test_simgcl_loss_and_gradient_are_those_of_views_made_step_by_step():
    config = SimGCLConfig(noise=0.5, layers=2, weight=1.0)
    backbone = made(config).train()
    nodes = torch.randn(6, 4, requires_grad=True)
    final = Representations(backbone(nodes), 3)
    torch.manual_seed(7)
    value = backbone.losses(nodes, final, BATCH)["contrast"]
    (gradient,) = torch.autograd.grad(value, nodes)

    torch.manual_seed(7)
    matrix, layer = backbone.adjacency.matrix.to_dense(), nodes.repeat(1, 2)
    total = layer
    for _ in range(2):
        layer = matrix @ layer
        layer = layer + backbone._noise(layer.detach())
        total = total + layer
    first, second = total.chunk(2, 1)
    expected = sum(
        losses.info_nce(first[rows], second[rows], second[side], 0.2)
        for rows, side in ((BATCH.users, slice(0, 3)), (BATCH.items + 3, slice(3, 6)))
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, nodes)[0])


def test_dccf_layer_by_hand():
    backbone = made(DCCFConfig(layers=1, intents=1), ONE_EDGE, dim=2)
    nodes = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    swapped = nodes.flip(0)  # a node's only neighbour has all the weight in both adaptive graphs
    intents = torch.cat([backbone.user_intents.T, backbone.item_intents.T])  # one intent: its share is 1
    torch.testing.assert_close(backbone(nodes), nodes + (nodes + 3 * swapped + intents))


def test_dccf_adaptive_weights_follow_the_views_cosines():
    backbone = made(DCCFConfig())
    view, nodes = torch.randn(6, 4), torch.randn(6, 4)
    weights = (1 + functional.cosine_similarity(view[:, None], view[None], dim=-1)) / 2
    weights = weights * (backbone.adjacency.matrix.to_dense() > 0)
    expected = weights / weights.sum(1, keepdim=True) @ nodes
    torch.testing.assert_close(backbone._adaptive(view, nodes), expected)


@pytest.mark.parametrize(
    ("depth", "kept_pairs", "masked"),
    [(1, {(0, 3), (2, 5), (1, 5)}, {4}), (2, {(2, 5)}, {4, 0, 1}), (3, set(), {0, 1, 3, 4, 5})],
)
def test_autocf_hides_what_is_near_a_seed(depth, kept_pairs, masked):
    backbone = made(AutoCFConfig(mask_depth=depth))
    kept, nodes = backbone._hide(torch.tensor([4]))
    pairs = zip(backbone.pattern.rows[kept].tolist(), backbone.pattern.columns[kept].tolist(), strict=True)
    assert {(min(pair), max(pair)) for pair in pairs} == kept_pairs
    assert set(nodes.nonzero().squeeze(1).tolist()) == masked


def test_autocf_encoder_is_normalised_by_the_degrees_left():
    backbone = made(AutoCFConfig())
    kept, _ = backbone._hide(torch.tensor([3]))  # hides 3-0 and 0-4: left is the path 4-1-5-2
    weights = backbone.pattern.matrix(backbone._normalised(kept)).to_dense()
    assert weights[1, 4] == pytest.approx(2**-0.5)
    assert weights[1, 5] == pytest.approx(0.5)
    assert weights[0].abs().sum() == 0


def test_autocf_attention_matches_a_dense_softmax():
    backbone = made(AutoCFConfig(heads=2))
    nodes, seen = torch.randn(6, 4), backbone.adjacency.matrix.to_dense() > 0
    heads = []
    for head in (slice(0, 2), slice(2, 4)):
        query, key, value = (nodes @ weight[:, head] for weight in (backbone.query, backbone.key, backbone.value))
        shares = torch.softmax((query @ key.T).masked_fill(~seen, -torch.inf), 1)
        heads.append(shares @ value)
    torch.testing.assert_close(backbone._attend(nodes, backbone.pattern), torch.cat(heads, 1))


def test_autocf_ranking_loss_is_the_full_softmax():
    backbone = made(AutoCFConfig())
    final = Representations(torch.randn(6, 4), 3)
    value = backbone.losses(final.nodes, final, BATCH)["ranking"]
    expected = functional.cross_entropy(final.user[BATCH.users] @ final.item.T, BATCH.items)
    torch.testing.assert_close(value, expected)


def test_autocf_agreement_is_with_nodes_within_two_steps():
    backbone = made(AutoCFConfig())
    nodes = torch.randn(6, 4)
    near = nodes[3] + nodes[4] + nodes[1]  # of node 0 on the path 3-0-4-1
    expected = functional.cosine_similarity(near, nodes[0], dim=0)
    torch.testing.assert_close(backbone._agreements(nodes)[0], expected)


def test_autocf_heads_must_divide_the_width():
    with pytest.raises(UserError, match="3 heads"):
        made(AutoCFConfig(heads=3))
