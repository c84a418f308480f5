"""The quality of vectors of cold items: a share of all items is removed from train and has to be found in test.

The cost for the other items is reported too: the recall of their test pairs among all items, compared with that in
lists without cold items.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from benchmarks.data import BenchData, train_counts
from benchmarks.runs import MODEL, Run
from benchmarks.tables import markdown
from darec.artifacts.store import Artifact
from darec.common.errors import UserError
from darec.common.hashing import digest
from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.protocol import Ranking, popularity, rank, score
from darec.model import cold_start
from darec.serving.ranker import with_new

K = 20
_METRICS = ("recall", "ndcg")


def hold_out(data: BenchData, share: float, seed: int) -> BenchData:
    """The data with a random `share` of the items in no train or val pair, and only cold items' pairs in test.

    Items that never had a train pair are cold too. Test pairs of users who have no train pair left are dropped.

    Raises:
        UserError: there is no text, or no test pair of a cold item.
    """
    if data.text is None:
        raise UserError(f"{data.name} has no text vectors", where="bench cold-start", hint="give data with text")
    full, generator = data.interactions, torch.Generator().manual_seed(seed)
    cold = torch.rand(full.n_items, generator=generator) < share
    cold |= train_counts(full)[1] == 0
    train, val = (filtered(part, ~cold[part.items]) for part in (full.train, full.val))
    warm_users = torch.bincount(train.users, minlength=full.n_users) > 0
    test = filtered(full.test, cold[full.test.items] & warm_users[full.test.users])
    if not len(test):
        raise UserError(f"no cold item of {data.name} is in test", where="bench cold-start", hint="raise --share")
    interactions = Interactions(full.n_users, full.n_items, train, val, test)
    content = digest(["hold out items", share, seed, data.content])
    return BenchData(data.name, interactions, data.text, content, data.text_content)


def filtered(pairs: Pairs, kept: Tensor) -> Pairs:
    """The pairs that are `kept`, bool [len(pairs)]."""
    return Pairs(pairs.users[kept], pairs.items[kept])


def positions(kind: Tensor) -> Tensor:
    """The position of each item of a kind among those of its kind, -1 for other items: bool [n] -> int64 [n]."""
    return torch.where(kind, kind.cumsum(0) - 1, -1)


def best_of(kind: Tensor, final: Representations, train: Pairs, held_out: Pairs) -> Ranking:
    """The best items of one `kind`, bool [n_items], of every user of `held_out`, without their train items."""
    known = filtered(train, kind[train.items])
    seen = Pairs(known.users, positions(kind)[known.items])
    found = rank(Representations.join(final.user, final.item[kind]), seen, held_out, K)
    return Ranking(found.users, kind.nonzero().squeeze(1)[found.top.long()])


def tables(runs: Sequence[tuple[Run, Artifact]], full: dict[str, BenchData]) -> str:
    """The quality of the vectors of cold items, and what places for them cost, in Markdown.

    The first table has Recall@20 and NDCG@20 on the cold items' test pairs, ranked among the cold items and among all.
    The second has the effect of reserving positions of each list for cold items (`rules.new_share`). `full` has the
    original data by name, with the test pairs of the other items.
    """
    head = ["data", "model", "cold vectors", "R@20 among cold", "N@20 among cold", "R@20 among all", "N@20 among all"]
    head += ["warm R@20 among all", "change"]
    rows, places, known = [], [], set()
    for run, artifact in runs:
        if run.data.name not in known:
            rows += [[run.data.name, "", *line] for line in _lines(_references(run.data), run.data, full)]
            known.add(run.data.name)
        named = [run.data.name, f"{model_name(run)}, seed {run.entry.seed}"]
        found = variants(run, artifact)
        rows += [[*named, *line] for line in _lines(found, run.data, full)]
        for name, final in found.items():
            if "text" in name:
                places += [[*named, name, *line] for line in _places(final, run.data, full[run.data.name])]
    second = ["data", "model", "cold vectors", f"places of {K}", "R@20 of cold", "R@20 of warm", "change"]
    return f"{markdown(head, rows)}\n{markdown(second, places)}"


def model_name(run: Run) -> str:
    """The backbone and the alignment of a run."""
    return f"{run.entry.backbone} + {run.entry.alignment}"


def _places(final: Representations, data: BenchData, full: BenchData) -> Iterator[list[str]]:
    """Recall of cold and of warm items' test pairs with 0, 1 and 2 positions reserved for cold items."""
    inter = data.interactions
    user_counts, item_counts = train_counts(inter)
    warm = item_counts > 0
    test = full.interactions.test
    test = filtered(test, user_counts[test.users] > 0)

    lists, new = rank(final, inter.train, test, K), best_of(~warm, final, inter.train, test)
    parts = filtered(test, ~warm[test.items]), filtered(test, warm[test.items])
    _, alone = warm_recall(final, data, full)
    for places in (0, 1, 2):
        ranking = _with_places(lists, new.top[:, :places], ~warm) if places else lists
        means = (score(ranking, part, inter.n_items, (K,), ("recall",)).means()[f"recall@{K}"] for part in parts)
        of_cold, of_warm = means
        yield [str(places), f"{of_cold:.4f}", f"{of_warm:.4f}", f"{of_warm / alone - 1:+.1%}" if alone else ""]


def _with_places(lists: Ranking, new: Tensor, is_new: Tensor) -> Ranking:
    ids, best = lists.top.long().numpy(), new.numpy()
    top, _ = with_new(ids, np.zeros(ids.shape, np.float32), best, np.zeros(best.shape, np.float32), is_new.numpy())
    return Ranking(lists.users, torch.from_numpy(top).int())


def _lines(candidates: dict[str, Representations], data: BenchData, full: dict[str, BenchData]) -> list[list[str]]:
    lines = []
    for name, final in candidates.items():
        warm, alone = warm_recall(final, data, full[data.name])
        values = (*among_cold(final, data), *among_all(final, data), warm)
        lines.append([name, *(f"{value:.4f}" for value in values), f"{warm / alone - 1:+.1%}" if alone else ""])
    return lines


def _references(data: BenchData) -> dict[str, Representations]:
    """Methods without a trained model."""
    inter, text = data.interactions, data.text
    assert text is not None
    torch.manual_seed(0)
    return {
        "random": Representations(torch.randn(inter.n_nodes, 32), inter.n_users),
        "popularity": popularity(inter.train, inter.n_users, inter.n_items),
        "cosine of user and item text": Representations(functional.normalize(text.nodes, dim=-1), inter.n_users),
    }


def variants(run: Run, artifact: Artifact) -> dict[str, Representations]:
    """The run's representations with the vectors of cold items unchanged, set to the warm mean, and predicted from
    text.
    """
    state, data = load_file(artifact.path / MODEL), run.data
    final = Representations.join(state["final.user"], state["final.item"])
    cold = train_counts(data.interactions)[1] == 0
    item = final.item.clone()
    item[cold] = final.item[~cold].mean(0)
    assert data.text is not None
    unit = run.entry.config.scoring == "cosine"
    known = final, data.text, data.interactions, unit
    return {
        "of the backbone": final,
        "mean of warm items": Representations.join(final.user, item),
        "ridge from text": cold_start.fill(*known),
        "neighbours of the text": cold_start.fill_from_neighbours(*known, run.entry.config.cold_loss),
        "text of the history": cold_start.fill_from_history(
            *known, run.entry.config.cold_loss, run.entry.config.cold_growth
        ),
    }


def among_all(final: Representations, data: BenchData) -> list[float]:
    """Metrics when cold items compete with all."""
    inter = data.interactions
    ranking = rank(final, inter.train, inter.test, K)
    return list(score(ranking, inter.test, inter.n_items, (K,), _METRICS).means().values())


def warm_recall(final: Representations, data: BenchData, full: BenchData) -> tuple[float, float]:
    """Recall@20 of the other items' test pairs, among all items and among these items alone."""
    inter = data.interactions
    user_counts, item_counts = train_counts(inter)
    warm, test = item_counts > 0, full.interactions.test
    test = filtered(test, warm[test.items] & (user_counts[test.users] > 0))
    rankings = rank(final, inter.train, test, K), best_of(warm, final, inter.train, test)
    among, alone = (score(each, test, inter.n_items, (K,), ("recall",)).means()[f"recall@{K}"] for each in rankings)
    return among, alone


def among_cold(final: Representations, data: BenchData) -> list[float]:
    """Metrics when only cold items are ranked, as on a page of new arrivals."""
    inter = data.interactions
    ranking = best_of(train_counts(inter)[1] == 0, final, inter.train, inter.test)
    return list(score(ranking, inter.test, inter.n_items, (K,), _METRICS).means().values())
