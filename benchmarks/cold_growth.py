"""Chooses `train.cold_growth` without test data: items are removed from train once more, and a model is trained again.

The items with train interactions and their train and validation pairs are data of their own, split as those of a run: a
user's newest fifth is test, and a tenth is validation. A share of the items is cold among them. The model is trained
without these items, so that it knows no more about them than about a new item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import cold
from benchmarks.data import BenchData, train_counts
from benchmarks.runs import MODEL, Run, run_grid
from benchmarks.tables import markdown
from darec.artifacts.store import Artifact, Store
from darec.common.hashing import digest
from darec.common.interactions import Interactions, Pairs, Representations
from darec.common.progress import Progress
from darec.evaluation.protocol import Ranking, score
from darec.model import cold_start

_VAL, _TEST = 0.1, 0.2  # fractions of a user's pairs, as in the default split
_SCALES = torch.logspace(-1, 1, 801)


@dataclass(frozen=True)
class Nested:
    """Data for the choice of the growth."""

    held: BenchData
    """Without train and validation pairs of the items that are cold; test has only their pairs."""
    full: BenchData
    """With the test pairs of all items."""


def nested(data: BenchData, share: float, seed: int) -> Nested:
    """Data of the items that `data` has in train, a random `share` of which is cold. The test of `data` is not used."""
    assert data.text is not None
    known = train_counts(data.interactions)[1] > 0
    number = cold.positions(known)
    parts = [Pairs(part.users, number[part.items]) for part in _split_again(data.interactions, known, seed)]
    interactions = Interactions(data.interactions.n_users, int(known.sum()), *parts)
    text = Representations.join(data.text.user, data.text.item[known])
    content = digest(["nested", _VAL, _TEST, seed, data.content])
    full = BenchData(data.name, interactions, text, content, digest([content, data.text_content]))
    return Nested(cold.hold_out(full, share, seed), full)


def _split_again(interactions: Interactions, known: Tensor, seed: int) -> tuple[Pairs, Pairs, Pairs]:
    """Train, validation and test of the train and validation pairs of `known` items, bool [n_items].

    Validation pairs are newer than train pairs, so they are held out first; train pairs are held out at random, because
    their order is not known. As in a split, users with three and more pairs have at least one in each part.
    """
    train, val = interactions.train, cold.filtered(interactions.val, known[interactions.val.items])
    users, items = torch.cat([train.users, val.users]), torch.cat([train.items, val.items])
    age = torch.rand(len(users), generator=torch.Generator().manual_seed(seed))
    age[len(train) :] -= 1

    order = age.argsort()
    order = order[users[order].argsort(stable=True)]
    users, items = users[order], items[order]
    counts = torch.bincount(users, minlength=interactions.n_users)
    position = torch.arange(len(users)) - (counts.cumsum(0) - counts)[users]
    tests, vals = ((share * counts).long().clamp_min(1).where(counts > 2, 0) for share in (_TEST, _VAL))

    is_test = position < tests[users]
    is_val = ~is_test & (position < (tests + vals)[users])
    is_train = ~(is_test | is_val)
    new_train, new_val, test = (Pairs(users[part], items[part]) for part in (is_train, is_val, is_test))
    return new_train, new_val, test


def recalls(run: Run, artifact: Artifact, full: BenchData, growths: Sequence[float]) -> list[float]:
    """Recall@20 of cold items' test pairs among all items, for every growth.

    Vectors of cold items are scaled so that the recall of the other items' test pairs falls by exactly
    `train.cold_loss`, without which values of different growths cannot be compared.
    """
    state = load_file(artifact.path / MODEL)
    final, data = Representations.join(state["final.user"], state["final.item"]), run.data
    assert data.text is not None
    warm = train_counts(data.interactions)[1] > 0
    found = []
    for growth in growths:
        wide, predict = cold_start.history_rows(final, data.text, data.interactions, growth)
        item = wide.item.clone()
        item[~warm] = predict(warm, ~warm)
        rows = Representations.join(wide.user, item)
        found.append(recall_at_loss(rows, data, full, run.entry.config.cold_loss))
    return found


def recall_at_loss(final: Representations, data: BenchData, full: BenchData, loss: float) -> float:
    """Recall@20 of cold items at the largest scale of their vectors at which the others lose at most `loss`."""
    user_counts, item_counts = train_counts(data.interactions)
    warm = item_counts > 0
    test = cold.filtered(full.interactions.test, user_counts[full.interactions.test.users] > 0)
    of_cold, of_warm = (cold.filtered(test, chosen[test.items]) for chosen in (~warm, warm))

    # The best of both kinds are ranked once, and merged for every scale.
    known, new = (cold.best_of(kind, final, data.interactions.train, test) for kind in (warm, ~warm))
    users, items = known.users, torch.cat([known.top, new.top], 1)
    scores = [torch.einsum("ud,ukd->uk", final.user[users], final.item[each.top]) for each in (known, new)]

    def recall(scale: float, part: Pairs) -> float:
        first = torch.cat([scores[0], scale * scores[1]], 1).topk(cold.K).indices
        lists = Ranking(users, items.gather(1, first))
        return score(lists, part, len(warm), (cold.K,), ("recall",)).means()[f"recall@{cold.K}"]

    allowed = (1 - loss) * recall(0.0, of_warm)
    low, high = 0, len(_SCALES)  # a larger scale never raises the recall of warm items
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if recall(float(_SCALES[middle]), of_warm) >= allowed else (low, middle)
    return recall(float(_SCALES[max(low - 1, 0)]), of_cold)


def choose(
    runs: Sequence[tuple[Run, Artifact]],
    held: Mapping[str, BenchData],
    full: Mapping[str, BenchData],
    growths: Sequence[float],
    share: float,
    store: Store,
    progress: Progress,
) -> tuple[list[tuple[Run, Artifact]], str]:
    """The runs with the growth that is best for all of them together, and a table of the recalls.

    The growth with the highest mean recall over the nested data of all runs is chosen, for each data set. Every seed
    has nested data of its own, because the recall of a tenth of the items is a noisy measure.

    Args:
        runs: finished runs on held-out data.
        held: held-out data by name.
        full: the original data by name.
        growths: the values to choose from.
        share: the fraction of the items that is cold.
        store: has the runs on the nested data, and gets those that are missing.
        progress: told of these runs.
    """
    inner = {(run.data.name, run.entry.seed): nested(held[run.data.name], share, run.entry.seed + 1) for run, _ in runs}
    again = [replace(run, data=inner[run.data.name, run.entry.seed].held) for run, _ in runs]
    trained = {run.key: result.artifact for run, result in run_grid(again, store, progress)}

    found: dict[str, list[list[float]]] = {}
    lines = []
    for run in again:
        if (artifact := trained.get(run.key)) is not None:
            values = recalls(run, artifact, inner[run.data.name, run.entry.seed].full, growths)
            found.setdefault(run.data.name, []).append(values)
            lines.append([run.data.name, f"{cold.model_name(run)}, seed {run.entry.seed}", *map(_shown, values)])

    chosen, tested = [], []
    for name, values in found.items():
        means = [sum(column) / len(column) for column in zip(*values, strict=True)]
        best = growths[means.index(max(means))]
        lines.append([name, f"mean: {best:g} is chosen", *map(_shown, means)])
        for run, artifact in runs:
            if run.data.name == name:
                config = run.entry.config.model_copy(update={"cold_growth": best})
                chosen.append((replace(run, entry=replace(run.entry, config=config)), artifact))
                at_loss = recalls(run, artifact, full[name], [best])
                tested.append([name, f"{cold.model_name(run)}, seed {run.entry.seed}", *map(_shown, at_loss)])

    head = ["data", "model"]
    return chosen, "\n".join(
        [
            markdown([*head, *(f"validation, growth {growth:g}" for growth in growths)], lines),
            markdown([*head, "test, at the same loss"], tested),
            "",
        ]
    )


def _shown(value: float) -> str:
    return f"{value:.4f}"
