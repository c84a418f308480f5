"""One suite over every alignment objective."""

from itertools import permutations
from typing import get_args

import numpy as np
import pytest
import torch

from darec import alignment
from darec.alignment.darec import shared_text
from darec.common.errors import UserError
from darec.common.interactions import Batch, Interactions, Pairs, Representations
from darec.model import clustering
from darec.model.propagation import Adjacency, power_sum
from darec.model.whitening import unit, whiten
from schemas.alignment import (
    AlignmentConfig,
    DaRecConfig,
    DaRecWeights,
    DistillConfig,
    KARConfig,
    RetrievedGraphConfig,
    RLMRecConConfig,
    RLMRecGenConfig,
)
from tests.checkerboard import checkerboard, parity_text

OBJECTIVES = [each() for each in get_args(get_args(AlignmentConfig)[0])]
NETWORKS = {"cf_parts": "network", "text_parts": "network"}
DAREC_CHOICES = [
    NETWORKS,
    {"text_parts": "network"},
    {"cf_parts": "network"},
    {"shared": 0.7, "components": 2},
    {"sides": "users"},
    {"sides": "separate"},
    {"sides": "joint"},
    {"sample_from": "uniform"},
    {"sample_from": "batch"},
    {"similarity": "inner"},
    {"similarity": "cosine"},
    {"matching": "greedy"},
    NETWORKS | {"matching": "greedy", "local_loss": "distance"},
    NETWORKS | {"depth": 1, "activation": "tanh", "local_loss": "matrix"},
    NETWORKS | {"depth": 3, "activation": "gelu"},
]
CASES = OBJECTIVES + [DaRecConfig(**choice, sample=16, centres=3) for choice in DAREC_CHOICES]
DIM, OUT = 8, 10


def dim_of(config):
    """Width of the input rows: that of the final ones for the objective that contrasts both."""
    return OUT if isinstance(config, RetrievedGraphConfig) else DIM


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.fixture
def setting(data):
    """(text, final representations that want gradients, a batch, interactions)."""
    torch.manual_seed(0)
    final = torch.randn(data.n_nodes, OUT, requires_grad=True)
    batch = Batch(data.train.users[:30], data.train.items[:30], (data.train.items[:30] + 1) % data.n_items)
    return parity_text(data), Representations(final, data.n_users), batch, data


def build(config, text, data, *, fixed=False):
    """The objective of `config` over the text and the normalised train graph of `data`."""
    adjacency = Adjacency.normalised(data.train, data.n_users, data.n_items)
    return alignment.build(config, alignment.Setting(text, data, adjacency, dim_of(config), OUT, fixed))


def terms_of(config, setting):
    text, final, batch, data = setting
    objective = build(config, text, data).train()
    nodes = objective.inputs(torch.randn(len(final.nodes), dim_of(config)))
    assert nodes.shape == (len(final.nodes), dim_of(config))
    return objective, objective(final, batch)


@pytest.mark.parametrize("config", CASES, ids=lambda config: config.name)
def test_terms_are_finite_scalars(config, setting):
    _, terms = terms_of(config, setting)
    assert terms or config.name == "kar"
    for value in terms.values():
        assert value.shape == ()
        assert torch.isfinite(value)


@pytest.mark.parametrize("config", CASES, ids=lambda config: config.name)
def test_gradients_reach_the_backbone_and_every_parameter(config, setting):
    text, final, batch, data = setting
    torch.manual_seed(1)
    objective = build(config, text, data).train()
    changed = objective.inputs(torch.randn(len(final.nodes), dim_of(config)))
    (sum(objective(final, batch).values()) + changed.square().sum()).backward()
    if config.name != "kar":
        assert final.nodes.grad.abs().sum() > 0
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("config", CASES, ids=lambda config: config.name)
def test_equal_seeds_give_equal_terms(config, setting):
    traces = []
    for _ in range(2):
        torch.manual_seed(5)
        _, terms = terms_of(config, setting)
        traces.append({name: value.item() for name, value in terms.items()})
    assert traces[0] == traces[1]


@pytest.mark.parametrize("config", CASES, ids=lambda config: config.name)
def test_bfloat16_gives_about_the_same_terms(config, setting):
    values = []
    for half in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            _, terms = terms_of(config, setting)
        assert all(torch.isfinite(value) for value in terms.values())
        values.append({name: value.item() for name, value in terms.items() if name != "darec/local_structure"})
    assert values[1] == pytest.approx(values[0], rel=0.03, abs=0.003)  # a row between two centres may go to the other


@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda config: config.name)
def test_inputs_are_a_pure_function_in_use(config, setting):
    text, final, _, data = setting
    objective = build(config, text, data).eval()
    nodes = torch.randn(len(final.nodes), dim_of(config))
    assert torch.equal(objective.inputs(nodes), objective.inputs(nodes))
    if config.name != "kar":
        assert objective.inputs(nodes) is nodes


def test_a_weight_of_zero_leaves_the_term_out(setting):
    weights = DaRecWeights(orthogonality=0, uniformity=0, local_structure=0)
    _, terms = terms_of(DaRecConfig(weights=weights), setting)
    assert list(terms) == ["darec/global_structure"]


def test_weights_multiply(setting):
    values = []
    for config in (
        DaRecConfig(weight=0.1, shared=0.5),
        DaRecConfig(weight=0.3, shared=0.5, weights=DaRecWeights(uniformity=2)),
    ):
        torch.manual_seed(2)
        values.append(terms_of(config, setting)[1])
    assert values[1]["darec/global_structure"].item() == pytest.approx(
        3 * values[0]["darec/global_structure"].item(), rel=1e-5
    )
    assert values[1]["darec/uniformity"].item() == pytest.approx(6 * values[0]["darec/uniformity"].item(), rel=1e-5)


def test_warm_up_grows_to_the_full_weight(setting):
    text, final, batch, data = setting
    totals = []
    for epoch in (0, 3, 10):
        torch.manual_seed(3)
        objective = build(DaRecConfig(warmup_epochs=4), text, data)
        objective.start_epoch(epoch)
        totals.append(objective(final, batch)["darec/global_structure"].item())
    assert totals[0] == pytest.approx(totals[1] / 4, rel=1e-5)
    assert totals[1] == totals[2]


def test_without_gradient_to_the_backbone_only_projections_learn(setting):
    objective, terms = terms_of(DaRecConfig(gradient_to_backbone=False, **NETWORKS), setting)
    sum(terms.values()).backward()
    assert setting[1].nodes.grad is None
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_rlmrec_gen_masks_its_share_with_the_token(setting):
    text, final, _, data = setting
    objective = build(RLMRecGenConfig(mask=0.25), text, data).train()
    masked = (objective.inputs(torch.zeros(len(final.nodes), DIM)) == objective.token).all(1)
    assert masked.sum() == len(final.nodes) // 4


@pytest.mark.parametrize("parts", [{"temperature": 0.05}, NETWORKS | {"similarity": "cosine"}], ids=["fixed", "learnt"])
def test_darec_aligns_structure(data, parts):
    """Its global term alone pulls the similarities of free vectors towards those of the text."""
    torch.manual_seed(0)
    text = parity_text(data)
    rows = torch.nn.Parameter(0.1 * torch.randn(data.n_nodes, OUT))
    weights = DaRecWeights(orthogonality=0, uniformity=0, local_structure=0)
    objective = build(DaRecConfig(weight=1, weights=weights, sample=64, **parts), text, data)
    optimizer = torch.optim.Adam([rows, *objective.parameters()], lr=0.02)
    batch = Batch(data.train.users, data.train.items, data.train.items)
    trace = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective(Representations(rows, data.n_users), batch)["darec/global_structure"]
        loss.backward()
        optimizer.step()
        trace.append(loss.item())
    assert trace[-1] < 0.2 * trace[0]


def test_columns_are_apart_and_whole(setting):
    text, final, _, data = setting
    objective = build(DaRecConfig(shared=0.7, components=2), text, data)
    shared, specific = objective.cf_parts(final.nodes)
    assert torch.equal(torch.cat([shared, specific], 1), final.nodes)
    assert shared.shape[1] == 7
    assert not list(objective.parameters())


def test_text_of_fixed_parts_is_not_taught(setting):
    """Nothing on the text's side follows the backbone, so both sides cannot agree on saying nothing."""
    objective, _ = terms_of(DaRecConfig(cf_parts="network", text_parts="components"), setting)
    assert all(name.startswith("cf_parts.") for name, _ in objective.named_parameters())
    assert not objective.text.nodes.requires_grad


@pytest.mark.parametrize("sides", ["items", "users", "separate", "joint"])
@pytest.mark.parametrize("source", ["interactions", "uniform", "batch"])
def test_only_rows_of_the_sides_that_are_aligned_get_a_gradient(sides, source, setting):
    text, final, batch, data = setting
    torch.manual_seed(0)
    config = DaRecConfig(sides=sides, sample_from=source, sample=500, centres=3)
    sum(build(config, text, data)(final, batch).values()).backward()
    moved = final.nodes.grad.abs().sum(1) > 0
    wanted = {"user": sides != "items", "item": sides != "users"}
    assert {"user": bool(moved[: data.n_users].any()), "item": bool(moved[data.n_users :].any())} == wanted


def test_rows_are_drawn_as_often_as_they_are_in_train():
    """Item 0 has half of the interactions, item 3 none."""
    train = Pairs(torch.arange(12), torch.tensor([0] * 6 + [1, 1, 1, 2, 2, 2]))
    none = Pairs(train.users[:0], train.items[:0])
    data = Interactions(12, 4, train, none, none)
    text, batch = Representations(torch.randn(16, 5), 12), Batch(train.users, train.items, train.items)
    objective = build(DaRecConfig(sample=2, centres=2), text, data)
    torch.manual_seed(0)
    samples = [objective._sample(0, batch, 12) - 12 for _ in range(4000)]
    drawn = torch.bincount(torch.cat(samples), minlength=4) / len(samples)
    expected = torch.tensor([1 - 0.5**2, 1 - 0.75**2, 1 - 0.75**2, 0])  # at least once in two draws
    torch.testing.assert_close(drawn, expected, atol=0.03, rtol=0)


def test_a_sample_of_one_row_has_no_terms():
    train = Pairs(torch.arange(5), torch.zeros(5, dtype=torch.int64))
    none = Pairs(train.users[:0], train.items[:0])
    text, batch = Representations(torch.randn(8, 5), 5), Batch(train.users, train.items, train.items + 1)
    objective = build(DaRecConfig(centres=2), text, Interactions(5, 3, train, none, none))
    assert objective(Representations(torch.randn(8, OUT), 5), batch) == {}


@pytest.mark.parametrize("parts", [{}, {"cf_parts": "network"}])
def test_centres_of_two_spaces_are_not_compared_place_by_place(parts):
    with pytest.raises(ValueError, match="one space"):
        DaRecConfig(local_loss="matrix", **parts)


@pytest.mark.parametrize("rows", [0, 10])
def test_rlmrec_con_contrasts_at_most_so_many_pairs(setting, rows):
    text, final, batch, data = setting
    torch.manual_seed(0)
    objective = build(RLMRecConConfig(rows=rows), text, data)
    first = Batch(*(part[: rows or None] for part in (batch.users, batch.items, batch.negatives)))
    whole = build(RLMRecConConfig(), text, data)
    whole.load_state_dict(objective.state_dict())
    assert objective(final, batch)["rlmrec-con"].item() == whole(final, first)["rlmrec-con"].item()


def test_rlmrec_con_with_as_many_candidates_as_users_is_as_published(setting):
    text, final, batch, data = setting
    objective = build(RLMRecConConfig(candidates=data.n_users), text, data)
    whole = build(RLMRecConConfig(), text, data)
    whole.load_state_dict(objective.state_dict())
    torch.testing.assert_close(objective(final, batch)["rlmrec-con"], whole(final, batch)["rlmrec-con"])


def unit_rows(rows):
    rows = rows.detach().double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_rlmrec_con_sums_users_positives_and_negatives(setting):
    text, final, batch, data = setting
    objective = build(RLMRecConConfig(weight=0.5, temperature=0.3), text, data)

    def contrast(anchor, match, candidates):
        a, m, c = unit_rows(anchor), unit_rows(objective.project(match)), unit_rows(objective.project(candidates))
        return np.mean(np.log(np.exp(a @ c.T / 0.3).sum(1)) - (a * m).sum(1) / 0.3)

    expected = contrast(final.user[batch.users], text.user[batch.users], text.user)
    for items in (batch.items, batch.negatives):
        expected += contrast(final.item[items], text.item[items], text.item[items])
    assert objective(final, batch)["rlmrec-con"].item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_distill_is_cross_entropy_from_text_shares_to_ranking_shares(setting):
    text, final, batch, data = setting
    config = DistillConfig(weight=0.5, whiten=0, teacher_temperature=0.2, temperature=2.0, rows=7)
    objective = build(config, text, data)
    users = batch.users[:7]
    teacher = np.exp(unit_rows(text.user[users]) @ unit_rows(text.item).T / 0.2)
    teacher /= teacher.sum(1, keepdims=True)
    student = (final.user[users] @ final.item.T).detach().double().numpy() / 2
    student -= np.log(np.exp(student).sum(1, keepdims=True))
    expected = -0.5 * (teacher * student).sum(1).mean()
    assert objective(final, batch)["distill"].item() == pytest.approx(expected, rel=1e-5)


def test_distill_as_in_promax_weighs_users_by_certainty_and_compares_cosines(setting):
    text, final, batch, data = setting
    published = {"whiten_sides": "alone", "scores": "cosine", "users": "certain"}
    config = DistillConfig(whiten=3, weight=1.5, teacher_temperature=0.2, temperature=0.2, rows=5, **published)
    objective = build(config, text, data)

    def whitened(rows):
        centred = rows.double().numpy() - rows.double().numpy().mean(0)
        values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        rows = centred @ vectors[:, ::-1][:, :3] / np.sqrt(values[::-1][:3])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    users = batch.users[:5]
    own_users, own_items = (whitened(side) for side in (text.user, text.item))
    # The direction of a component is arbitrary, so the components of the objective decide it.
    own_users *= np.sign((own_users * objective.text.user.double().numpy()).sum(0))
    own_items *= np.sign((own_items * objective.text.item.double().numpy()).sum(0))
    shares = np.exp(own_users[users] @ own_items.T / 0.2)
    shares /= shares.sum(1, keepdims=True)
    weights = np.maximum(1 + (shares * np.log(shares)).sum(1) / np.log(shares.shape[1]), 0.1)
    student = unit_rows(final.user[users]) @ unit_rows(final.item).T / 0.2
    student -= np.log(np.exp(student).sum(1, keepdims=True))
    expected = -1.5 * (weights * (shares * student).sum(1)).mean()
    assert objective(final, batch)["distill"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("input_layer", [True, False])
def test_retrieved_graph_contrasts_both_graphs_over_distinct_nodes_and_pairs(setting, input_layer):
    text, final, _, data = setting
    some = torch.arange(0, len(data.train), 7)[:40]
    batch = Batch(data.train.users[some], data.train.items[some], data.train.items[some])
    config = RetrievedGraphConfig(weight=0.5, temperature=0.3, items=2, layers=2, input_layer=input_layer)
    objective = build(config, text, data).train()
    nodes = torch.randn(data.n_nodes, OUT)
    terms = objective(Representations(objective.inputs(nodes) + final.nodes, data.n_users), batch)

    edges = np.zeros((data.n_users, data.n_items))
    edges[data.train.users, data.train.items] = 1
    similar = np.where(edges > 0, -1, unit_rows(text.user) @ unit_rows(text.item).T)
    for user, item in np.argwhere(similar.argsort(1).argsort(1) >= data.n_items - 2):
        edges[user, item] = max(edges[user, item], similar[user, item] > 0)
    assert edges.sum() > len(data.train)
    graph = np.block([[np.zeros((len(edges),) * 2), edges], [edges.T, np.zeros((data.n_items,) * 2)]])
    root = graph.sum(1) ** -0.5
    graph = root[:, None] * graph * root
    layers = [nodes.double().numpy()]
    for _ in range(2):
        layers.append(graph @ layers[-1])

    first = unit_rows(nodes + final.nodes)
    second = unit_rows(torch.from_numpy(sum(layers[0 if input_layer else 1 :])))
    users, items = batch.users.numpy(), batch.items.numpy() + data.n_users
    assert len(set(users)) < len(users) and len(set(items)) < len(items)

    def contrast(anchors, matches):
        scores = anchors @ matches.T / 0.3
        return np.mean(np.log(np.exp(scores).sum(1)) - scores.diagonal())

    expected = {
        "users": contrast(first[np.unique(users)], second[np.unique(users)]),
        "items": contrast(first[np.unique(items)], second[np.unique(items)]),
        "cross": (contrast(first[users], second[items]) + contrast(second[users], first[items])) / 2,
    }
    found = {name: value.item() for name, value in terms.items()}
    expected = {f"retrieved-graph/{name}": 0.5 * value for name, value in expected.items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_retrieved_graph_trains_the_input_rows_through_both_graphs(setting):
    text, final, batch, data = setting
    objective = build(RetrievedGraphConfig(), text, data).train()
    nodes = torch.randn(data.n_nodes, OUT, requires_grad=True)
    objective.inputs(nodes)
    sum(objective(final, batch).values()).backward()
    assert nodes.grad.abs().sum() > 0 and final.nodes.grad.abs().sum() > 0


def test_retrieved_graph_has_no_edges_to_dislikes(setting):
    text, _, _, data = setting
    best = (text.user @ text.item.T).argmax(1)
    dislikes = Pairs(torch.arange(data.n_users), best)
    config = RetrievedGraphConfig(items=data.n_items)
    for given, wanted in ((None, True), (dislikes, False)):
        none = Pairs(best[:0], best[:0])
        some = Interactions(data.n_users, data.n_items, none, none, none, given)
        graph = build(config, text, some).graph.matrix.to_dense()
        assert ((graph[: data.n_users, data.n_users :] > 0)[dislikes.users, dislikes.items] == wanted).all()


def test_retrieved_graph_refuses_rows_wider_than_the_input(setting):
    text, _, _, data = setting
    graph = Adjacency.without_edges(data.n_users, data.n_items)
    with pytest.raises(UserError, match=r"wider rows.*such as lightgcn"):
        alignment.build(RetrievedGraphConfig(), alignment.Setting(text, data, graph, DIM, OUT))


def test_kar_adds_each_sides_own_mixture_of_experts(setting):
    text, _, _, data = setting
    objective = build(KARConfig(experts=2, width=5), text, data)
    nodes = torch.randn(data.n_nodes, DIM)
    added = (objective.inputs(nodes) - nodes).detach().numpy()

    def mixture(row, own, gate):
        shares = np.exp((gate.weight @ row + gate.bias).detach().numpy())
        answers = [expert(row).detach().numpy() for expert in [*objective.shared, *own]]
        return sum(share * answer for share, answer in zip(shares / shares.sum(), answers, strict=True))

    user, item = (
        mixture(text.user[3], objective.for_users, objective.user_gate),
        mixture(text.item[4], objective.for_items, objective.item_gate),
    )
    np.testing.assert_allclose(added[3], user, atol=1e-5)
    np.testing.assert_allclose(added[data.n_users + 4], item, atol=1e-5)


def test_darec_clusters_anew_every_so_many_steps(setting):
    text, _, batch, data = setting
    objective = build(DaRecConfig(sample=16, every=1, centres=3, recluster_steps=3), text, data)
    changed = []
    for step in range(7):
        before = objective.cf_centres.clone()
        objective.start_step(step)
        objective(Representations(torch.randn(data.n_nodes, OUT), data.n_users), batch)
        changed.append(not torch.equal(before, objective.cf_centres))
    assert changed == [True, False, False, True, False, False, True]


def test_a_text_that_learns_nothing_is_clustered_once(setting):
    """Later runs of k-means on the backbone's side only put its centres into another order."""
    text, _, batch, data = setting
    config = DaRecConfig(sample=16, every=1, centres=3, recluster_steps=1, kmeans_iterations=1)  # one does not suffice
    objective = build(config, text, data)
    seen = []
    for step in range(6):
        objective.start_step(step)
        objective(Representations(torch.randn(data.n_nodes, OUT), data.n_users), batch)
        seen.append(objective.text_centres[0].clone())
    for centres in seen:
        assert sorted(centres.tolist()) == sorted(seen[0].tolist())
    assert any(not torch.equal(centres, seen[0]) for centres in seen)


@pytest.mark.parametrize("matching", ["greedy", "optimal"])
@pytest.mark.parametrize("seed", range(4))
def test_partners_of_two_spaces_have_their_rows_in_common(seed, matching, setting):
    text, _, batch, data = setting
    torch.manual_seed(seed)
    config = DaRecConfig(components=1, propagate=0, centres=2, matching=matching)  # one component: +-1 by parity
    objective = build(config, text, data)
    text_rows = objective.text.nodes
    final = 3 * torch.randn(2, OUT)[(text_rows[:, 0] > 0).long()] + 0.01 * torch.randn(data.n_nodes, OUT)
    objective(Representations(final, data.n_users), batch)
    labels = clustering.nearest(final, objective.cf_centres[0])
    assert set(labels.tolist()) == {0, 1}
    assert torch.equal(labels, clustering.nearest(text_rows, objective.text_centres[0]))


@pytest.mark.parametrize("seed", range(4))
def test_partners_in_one_space_are_near(seed, setting):
    text, final, batch, data = setting
    torch.manual_seed(seed)
    objective = build(DaRecConfig(centres=3, local_loss="distance", **NETWORKS), text, data)
    objective(final, batch)
    distances = torch.cdist(objective.cf_centres[0], objective.text_centres[0]).numpy()
    best = min(distances[range(3), order].sum() for order in map(list, permutations(range(3))))
    assert distances.trace() == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("sides", ["items", "separate"])
def test_steps_without_a_sample_have_the_values_and_the_gradient_of_the_last_one(sides, fixed, setting):
    text, final, batch, data = setting
    config = DaRecConfig(sample=8, centres=3, every=3, sides=sides, recluster_steps=2)
    objective = build(config, text, data, fixed=fixed)

    def step(number, nodes):
        """The terms of a step and their gradient."""
        nodes = nodes.detach().requires_grad_()
        objective.start_step(number)
        terms = objective(Representations(nodes, data.n_users), batch)
        torch.stack(list(terms.values())).sum().backward()
        return {name: float(value.detach()) for name, value in terms.items()}, nodes.grad

    objective.start_epoch(0)
    vectors = [torch.randn_like(final.nodes) for _ in range(8)]
    found = [step(number, each) for number, each in enumerate(vectors)]
    for number, (values, gradient) in enumerate(found):
        values_then, gradient_then = found[number - number % 3]
        assert values == pytest.approx(values_then)
        torch.testing.assert_close(gradient, gradient_then)
    assert not torch.equal(found[0][1], found[3][1])

    objective.start_epoch(1)  # draws a sample at once, although the last step of the epoch before drew none
    assert not torch.equal(step(8, vectors[0])[1], found[7][1])
    assert int(objective.step) == 4


def test_values_are_not_divided_by_the_number_of_steps_without_a_sample(setting):
    text, final, batch, data = setting
    found = []
    for every in (1, 3):
        objective = build(DaRecConfig(sample=8, centres=3, every=every), text, data)
        torch.manual_seed(0)
        objective.start_step(0)
        found.append(objective(final, batch))
    assert found[0].keys() == found[1].keys() != set()
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value)


def test_rlmrec_gen_reconstructs_at_most_so_many_nodes(setting):
    text, final, batch, data = setting
    objective = build(RLMRecGenConfig(rows=3), text, data).train()
    objective.inputs(torch.zeros(len(final.nodes), DIM))
    objective(final, batch)["rlmrec-gen"].backward()
    assert (final.nodes.grad.abs().sum(1) > 0).sum() == 3


def test_the_components_spread_over_the_train_graph(setting):
    text, _, _, data = setting
    alone, spread = (shared_text(DaRecConfig(propagate=steps), text, data) for steps in (0, 2))
    torch.testing.assert_close(alone.nodes, unit(whiten(text, 256)).nodes)
    graph = Adjacency.normalised(data.train, data.n_users, data.n_items)
    expected = unit(whiten(Representations(power_sum(graph, alone.nodes, 2), data.n_users), 256))
    torch.testing.assert_close(spread.nodes, expected.nodes)
    taught = build(DaRecConfig(propagate=2, text_temperature=0.25), text, data).text
    torch.testing.assert_close(taught.nodes, 2 * spread.nodes)
