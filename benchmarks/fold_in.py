"""`darec bench fold-in`: vectors that are folded in from histories, compared with trained vectors.

A tenth of the users is removed from train and validation, the model is trained on the others, and the train histories
of the removed users are folded in. Rankings of their test pairs, without train items, are compared with those of the
model that was trained on all users.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.runs import Run
from benchmarks.tables import markdown
from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.protocol import Scores, popularity, rank, score
from darec.evaluation.significance import interval
from darec.serving.fold_in import HistoryMap, mean_items
from darec.training import train

TRAINED, CHOSEN = "trained on them", "regression on the mean of items"
_K, _TENTHS = 20, 10
_METRICS = (f"recall@{_K}", f"ndcg@{_K}")
_UNOBSERVED = (0.0, 0.01, 0.1, 0.3, 1.0)


def measure(run: Run, rounds: int) -> Iterator[dict[str, Scores]]:
    """The scores by method of another tenth of the users in each round, in the same order of users."""
    data = run.data.interactions
    all_users = _train(run, data)
    generator = torch.Generator().manual_seed(0)
    tenth = torch.randint(_TENTHS, (data.n_users,), generator=generator)
    for number in range(rounds):
        left_out = tenth == number
        train_part, val = (_where(part, ~left_out[part.users]) for part in (data.train, data.val))
        others = Interactions(data.n_users, data.n_items, train_part, val, data.test)
        folded = _methods(_train(run, others), others.train, _where(data.train, left_out[data.train.users]))
        test = _where(data.test, left_out[data.test.users])
        candidates = {TRAINED: all_users, "popularity": popularity(others.train, data.n_users, data.n_items)} | folded
        yield {name: _score(final, data, test) for name, final in candidates.items()}


def _train(run: Run, data: Interactions) -> Representations:
    text = run.data.text if run.entry.config.needs_text else None
    return train(run.entry.config, data, text).final


def _where(pairs: Pairs, kept: Tensor) -> Pairs:
    return Pairs(pairs.users[kept], pairs.items[kept])


def _score(final: Representations, data: Interactions, test: Pairs) -> Scores:
    return score(rank(final, data.train, test, _K), test, data.n_items, (_K,), ("recall", "ndcg"))


def _methods(final: Representations, train_pairs: Pairs, histories: Pairs) -> dict[str, Representations]:
    """Candidate vectors of users with `histories`, given a model that was trained on `train_pairs`."""
    item, n_users = final.item, final.n_users
    known, rows = torch.unique(train_pairs.users, return_inverse=True)
    learnt = HistoryMap.learn(rows, train_pairs.items, final.user[known], item)
    degree = torch.bincount(train_pairs.items, minlength=len(item)).clamp_min(1)
    weighted = item * degree.rsqrt()[:, None]
    users = {
        "mean of items": mean_items(histories.users, histories.items, item, n_users),
        "LightGCN's propagation of items": mean_items(histories.users, histories.items, weighted, n_users),
        CHOSEN: learnt.vectors(histories.users, histories.items, item, n_users),
    }
    for unobserved in _UNOBSERVED:
        users[f"ridge against items, others weigh {unobserved:g}"] = _ridge(histories, item, n_users, unobserved)

    return {name: Representations.join(user, item) for name, user in users.items()}


def _ridge(histories: Pairs, item: Tensor, n_users: int, unobserved: float) -> Tensor:
    """`min sum_history (u.v - 1)^2 + unobserved sum_all (u.v)^2 + l2 |u|^2` for each user, as implicit ALS does."""
    gram, width = item.T @ item, item.shape[1]
    known, rows = torch.unique(histories.users, return_inverse=True)
    chosen = item[histories.items]
    left = torch.zeros(len(known), width, width).index_add_(0, rows, chosen[:, :, None] * chosen[:, None, :])
    left += unobserved * gram + gram.trace() / len(item) / width * torch.eye(
        width
    )  # l2 relative to the squared norm of an average item
    right = torch.zeros(len(known), width).index_add_(0, rows, chosen)
    user = torch.zeros(n_users, width)
    user[known] = torch.linalg.solve(left, right)

    return user


def table(name: str, rounds: list[dict[str, Scores]]) -> str:
    """Means over the users of all rounds, and 95% intervals of the paired difference to training, in Markdown."""
    pooled = {method: _pooled([each[method] for each in rounds]) for method in rounds[0]}
    head = ["data", "vectors of the users", "users", "R@20", "N@20", "R@20 minus trained", "95% interval"]
    rows = []
    for method, scores in pooled.items():
        recall, ndcg = (scores.means()[metric] for metric in _METRICS)
        low, high = interval(scores, pooled[TRAINED], _METRICS[0])
        gap = recall - pooled[TRAINED].means()[_METRICS[0]]
        beside = ["", ""] if method == TRAINED else [f"{gap:+.4f}", f"{low:+.4f} to {high:+.4f}"]
        rows.append([name, method, str(len(scores.users)), f"{recall:.4f}", f"{ndcg:.4f}", *beside])

    return markdown(head, rows)


def _pooled(parts: list[Scores]) -> Scores:
    """Concatenates the rounds, which have different users."""
    values = {metric: torch.cat([part.values[metric] for part in parts]) for metric in _METRICS}
    return Scores(torch.cat([part.users for part in parts]), values)
