"""Vectors for users and items without train interactions, predicted from their text.

ridge: for each side, a ridge regression from text vectors to final representations is fitted to the warm rows, in
closed form; the penalty has the smallest leave-one-out error.

neighbours: the vector of a cold item is the mean of the warm items with the nearest texts, times a scale. The scale is
the largest one that decreases the validation recall of warm items by no more than allowed. It is chosen on a tenth of
the warm items, which are treated as if they were cold.

history: the same, and a cold item also scores by how its text goes with the texts of a user's items, in columns of
their own that are 0 for warm items.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.interactions import Interactions, ItemLists, Representations
from darec.common.regression import ridge
from darec.model.item_weights import history_matrix
from darec.model.ridge import text_prior

_MOST_ROWS = 100_000  # maximum number of evenly spaced rows for fitting a map of a few hundred dimensions
_NEIGHBOURS, _SHARPNESS = 50, 10  # number of neighbours, and exponent of the cosines that weight them
_BLOCK, _MOST_SCORES = 1024, 2**25  # number of rows that are compared with others, and of results, at once: 128 MB
_SHARE, _SEED = 0.1, 1  # fraction of the warm items that are treated as cold to choose the scale
_K, _MOST_USERS = 20, 10_000  # length of the lists and number of users for the choice of the scale
_SCALES, _FINE_SCALES = torch.logspace(-1, 1, 81), torch.logspace(-1, 1, 401)
_TEXT_SHARE, _TEXT_L2, _TEXT_COLUMNS = 0.4, 10.0, 384  # of the columns of histories
_HUBNESS, _HUB_NEIGHBOURS = 0.5, 10  # of neighbours, if there are columns of histories
_WHITENING, _LEAST_VARIANCE = 0.5, 1e-6  # of the texts that find them, and the smallest share of the largest variance
_FOLDS = 10  # of the warm items, for the scale of the columns of histories
_HISTORIES = 2**16  # users at once

_logger = logging.getLogger(__name__)


def fill(final: Representations, text: Representations, interactions: Interactions, unit: bool) -> Representations:
    """`final` with the rows of cold users and items predicted from `text`; warm rows are unchanged.

    `unit`: predicted rows are normalised to length 1. A side with fewer than two warm rows is unchanged.
    """
    warm_users, warm_items = _warm(interactions)
    users = _filled(final.user, text.user, warm_users, unit)
    items = _filled(final.item, text.item, warm_items, unit)
    return Representations(torch.cat([users, items]), final.n_users)


def fill_from_neighbours(
    final: Representations, text: Representations, interactions: Interactions, unit: bool, allowed_loss: float
) -> Representations:
    """Like `fill`, but the vectors of cold items are means of the items with the nearest texts, scaled to compete with
    warm items.

    Args:
        final: trained representations.
        text: text vectors of all nodes.
        interactions: train pairs define the warm rows; validation pairs choose the scale.
        unit: predicted rows are normalised to length 1, and not scaled.
        allowed_loss: the maximum relative decrease of the validation recall of warm items.
    """
    filled = fill(final, text, interactions, unit)
    _, warm = _warm(interactions)
    if warm.all() or warm.sum() < 2:
        return filled
    predicted = of_neighbours(text.item, final.item, warm, ~warm)
    if unit:
        predicted = functional.normalize(predicted, dim=-1)
    else:
        predicted = calibrate(final, text, interactions, allowed_loss) * predicted
    items = filled.item.clone()
    items[~warm] = predicted
    return Representations(torch.cat([filled.user, items]), final.n_users)


def fill_from_history(
    final: Representations,
    text: Representations,
    interactions: Interactions,
    unit: bool,
    allowed_loss: float,
    growth: float,
) -> Representations:
    """As `fill_from_neighbours`, with columns in which the texts of a user's items meet the text of a cold item.

    The rows are those of `history_rows`, and the scale of cold items is found by treating each tenth of the warm items
    in turn as cold.

    Args:
        final: trained representations.
        text: text vectors of all nodes.
        interactions: train pairs define the warm rows and histories; validation pairs choose the scale.
        unit: predicted rows are normalised to length 1, and not scaled; then there are no additional columns.
        allowed_loss: the maximum relative decrease of the validation recall of warm items.
        growth: the power of the length of a history by which the scores of cold items grow.

    Returns:
        rows of width 2 d + `_TEXT_COLUMNS`, or less if texts are narrower; of width d if `unit`, or without cold items.
    """
    _, warm = _warm(interactions)
    if unit or warm.all() or warm.sum() < 2:
        return fill_from_neighbours(final, text, interactions, unit, allowed_loss)
    wide, predict = history_rows(final, text, interactions, growth)
    item = wide.item.clone()
    item[~warm] = calibrate(wide, text, interactions, allowed_loss, predict, _FOLDS) * predict(warm, ~warm)
    return Representations.join(wide.user, item)


def history_rows(
    final: Representations, text: Representations, interactions: Interactions, growth: float
) -> tuple[Representations, Callable[[Tensor, Tensor], Tensor]]:
    """Rows with columns for histories, and a function that predicts the rows of cold items.

    The score of user u and cold item c is `w_u (e_u . v_c + t_uc)`. v_c is the mean of the neighbours by `whitened`
    texts, of which those of many items count less. t_uc is what EASE, fitted to texts instead of users, gives c by the
    train items H of u: sum_{i in H} C_ic / sqrt(|H|), with C as in `darec.model.ridge.text_prior`, and with
    `_TEXT_SHARE` of the standard deviation of e_u . v_c. The weight w_u grows with |H|, because a place costs a user
    with many items a smaller part of the recall. Scores of warm items stay: rows are [e_u, (w_u - 1) e_u, w_u p_u] of
    users, [e_i, 0, 0] of warm items, and [v_c, v_c, q_c] of cold items.

    Returns:
        rows [n, 2 d + k], in which cold items are not predicted yet, and the function: it takes the items that are
        known and those that are wanted, both bool [n_items], and gives the rows of the wanted ones.
    """
    _, warm = _warm(interactions)
    filled = fill(final, text, interactions, unit=False)
    user_text, item_text = history_columns(text.item, interactions)
    means = partial(of_neighbours, whitened(text.item, warm), final.item, hubness=_HUBNESS)
    spread = deviation(final.user, means(warm, ~warm))
    item_text = _TEXT_SHARE * spread / max(deviation(user_text, item_text[~warm]), 1e-12) * item_text

    lengths = _lengths(interactions).log()
    weight = (growth * (lengths - lengths.mean())).exp()[:, None]
    user = torch.cat([filled.user, (weight - 1) * filled.user, weight * user_text], 1)
    item = functional.pad(filled.item, (0, filled.dim + item_text.shape[1]))

    def predict(known: Tensor, wanted: Tensor) -> Tensor:
        mean = means(known, wanted)
        return torch.cat([mean, mean, item_text[wanted]], 1)

    return Representations.join(user, item), predict


def _lengths(interactions: Interactions) -> Tensor:
    """Number of different train items of each user, at least 1."""
    return ItemLists(interactions.train, interactions.n_users, interactions.n_items).lengths.clamp_min(1).float()


def history_columns(item_text: Tensor, interactions: Interactions) -> tuple[Tensor, Tensor]:
    """Rows of users [n_users, k] and of items [n_items, k] whose inner products are the text scores.

    They are the best approximation of these scores by k columns, over the users and items that there are.

    Derivation: the scores are P T', rows p of users and t of items. With the users' second moments G = P'P / n_users
    and its symmetric root L, G = L L, the rows of P L^-1 have second moments I. A change M of (T L)' therefore changes
    the scores by a mean square of |M|^2, and the closest (T L)' of rank k is its projection on the k leading
    eigenvectors Q of (T L)'(T L): P T' ~ (P L^-1 Q) (T L Q)'.
    """
    size = interactions.train, interactions.n_users, interactions.n_items
    prior, history = text_prior(item_text, _TEXT_L2, 1.0), history_matrix(*size)
    lengths = _lengths(interactions).sqrt()

    def blocks() -> Iterator[Tensor]:
        for users in torch.arange(interactions.n_users, device=item_text.device).split(_HISTORIES):
            yield torch.sparse.mm(history.index_select(0, users), prior.left) / lengths[users, None]

    moments = torch.zeros(prior.left.shape[1], prior.left.shape[1], dtype=torch.float64, device=item_text.device)
    for rows in blocks():
        moments += (rows.T @ rows).double()
    values, vectors = torch.linalg.eigh(moments / interactions.n_users)
    root = values.clamp_min(1e-12 * values[-1]).sqrt()
    spread = (vectors * root) @ vectors.T  # L, [d, d]
    seen = prior.right.double() @ spread  # T L, [n_items, d]
    _, components = torch.linalg.eigh(seen.T @ seen)
    best = components[:, -_TEXT_COLUMNS:]
    to_users = (((vectors / root) @ vectors.T) @ best).float()  # L^-1 Q, [d, k]
    return torch.cat([rows @ to_users for rows in blocks()]), (seen @ best).float()


def whitened(text: Tensor, known: Tensor) -> Tensor:
    """Texts [n, p] along the principal axes of the `known` ones (bool [n]), whose variances are made more equal.

    A variance s^2 becomes s^2 to the power of 1 - `_WHITENING`. Text encoders put most of the variance into a few axes,
    and without this the cosines of texts hardly depend on the others.
    """
    some = text[_some_rows(known)]
    centre = some.mean(0)
    centred = (some - centre).double()
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances = variances.clamp_min(_LEAST_VARIANCE * variances[-1])
    return (text - centre) @ (axes * variances ** (-_WHITENING / 2)).float()


def deviation(user: Tensor, item: Tensor) -> float:
    """Standard deviation of the scores of all users and items, from d x d numbers.

    (u.v)^2 = u'v v'u = tr(uu' vv'), and every user meets every item, so the mean is tr(E[uu'] E[vv']); both are
    symmetric, so the trace is the sum of their products. The mean of u.v is E[u] . E[v].
    """
    user, item = user.double(), item.double()
    squares = ((user.T @ user / len(user)) * (item.T @ item / len(item))).sum()
    return float((squares - user.mean(0).dot(item.mean(0)) ** 2).clamp_min(0).sqrt())


def of_neighbours(
    text: Tensor, final: Tensor, known: Tensor, wanted: Tensor, sharpness: float = _SHARPNESS, hubness: float = 0.0
) -> Tensor:
    """For each wanted row the mean direction of the known rows with the most similar texts, [wanted, d].

    The weight is a power of the cosine of centred texts. If all neighbours have the same direction, the row has the
    mean length of known rows; the less they agree, the shorter it is.

    Args:
        text: [n, p].
        final: [n, d].
        known: bool [n], rows whose `final` counts.
        wanted: bool [n], rows to predict.
        sharpness: the power.
        hubness: subtracts this share of a known row's mean cosine to its own nearest known rows, so that rows that are
            near to many others count less (as CSLS, Conneau et al., ICLR 2018).
    """
    centre = text[known].mean(0)
    known_text, wanted_text = (functional.normalize(text[rows] - centre, dim=-1) for rows in (known, wanted))
    directions, length = functional.normalize(final[known], dim=-1), final[known].norm(dim=-1).mean()
    less = hubness * _density(known_text) if hubness else torch.zeros(len(known_text), device=text.device)
    parts = [torch.empty(0, final.shape[1], dtype=final.dtype, device=final.device)]
    for block in wanted_text.split(_block(len(known_text))):
        nearest = (block @ known_text.T - less).topk(min(_NEIGHBOURS, len(known_text)))
        weights = nearest.values.clamp_min(1e-6)
        weights = (weights / weights[:, :1]) ** sharpness  # the nearest has 1: the power of a small cosine would be 0
        weights = weights / weights.sum(1, keepdim=True)
        parts.append(length * (weights[:, None] @ directions[nearest.indices]).squeeze(1))
    return torch.cat(parts)


def _block(columns: int) -> int:
    """The number of rows that are compared with so many columns at once."""
    return min(_BLOCK, max(1, _MOST_SCORES // max(1, columns)))


def _density(unit: Tensor) -> Tensor:
    """The mean cosine of each row to its nearest others, minus the mean of all rows: [n]."""
    size = min(_HUB_NEIGHBOURS + 1, len(unit))
    near = torch.cat([(block @ unit.T).topk(size).values[:, 1:].mean(1) for block in unit.split(_block(len(unit)))])
    return (near - near.mean()).nan_to_num()


def calibrate(
    final: Representations,
    text: Representations,
    interactions: Interactions,
    allowed_loss: float,
    predict: Callable[[Tensor, Tensor], Tensor] | None = None,
    folds: int = 1,
) -> float:
    """The largest scale of predicted rows that decreases the validation recall of warm items by at most `allowed_loss`.

    A tenth of the warm items, drawn at random, are treated as if they were cold. With several folds, the loss is the
    mean over as many different tenths, and has to be below the limit by its standard error over users. Then these items
    are also in the lists of users who have them in train: nobody has interactions with a cold item. Without
    validation pairs of the other items the scale is 1.

    Args:
        final: trained representations.
        text: text vectors of all nodes.
        interactions: train and validation pairs.
        allowed_loss: the largest fraction of recall.
        predict: gives the rows of the items `wanted` from those that are `known`, both bool [n_items]; None: the means
            of neighbours.
        folds: number of tenths, at most 10.
    """
    _, warm = _warm(interactions)
    draw = torch.rand(len(warm), generator=torch.Generator().manual_seed(_SEED)).to(warm.device)
    users = torch.unique(interactions.val.users)
    users = users[:: -(-len(users) // (_MOST_USERS if folds == 1 else 3 * _MOST_USERS)) or 1]
    of_text = predict or partial(of_neighbours, text.item, final.item)

    # Columns in which warm items are 0 do not count; a tenth of the items leaves enough of lists of three times K.
    used = (final.item[warm] != 0).any(0)
    every = _Lists.best(final.user[:, used], users, final.item[:, used], warm, interactions, 3 * _K)
    pairs = []
    for fold in range(folds):
        as_cold = warm & (draw >= fold * _SHARE) & (draw < (fold + 1) * _SHARE)
        predicted = final.item.clone()
        predicted[as_cold] = of_text(warm & ~as_cold, as_cold)
        new = _Lists.best(final.user, users, predicted, as_cold, interactions, _K, leave_out_seen=folds == 1)
        known = every.without(as_cold, new.relevant)
        if as_cold.any() and (known.relevant > 0).any():
            pairs.append((known, new))
    if not pairs:
        return 1.0

    def loss(scale: float) -> float:
        """The relative loss of the other warm items in lists of all items; of several folds with a standard error."""
        lost = torch.stack([known.lost(new, scale) for known, new in pairs])
        base = torch.stack([known.recall for known, _ in pairs]).nanmean()
        mean, of_users = lost.nanmean(), lost.nanmean(0)
        of_users = of_users[~of_users.isnan()]
        error = of_users.std(correction=0) / len(of_users) ** 0.5 if folds > 1 else 0.0
        return float((mean + error) / base.clamp_min(1e-12))

    found = max((scale for scale in _SCALES.tolist() if loss(scale) <= allowed_loss + 1e-6), default=None)
    if folds > 1 and found is not None:
        finer = _FINE_SCALES[(found < _FINE_SCALES)][:4].tolist()
        found = max((scale for scale in finer if loss(scale) <= allowed_loss), default=found)
    found = float(_SCALES[0]) if found is None else found
    _logger.info("vectors of %d items without train interactions are scaled by %.2f", int((~warm).sum()), found)
    return found


@dataclass(frozen=True)
class _Lists:
    """The best items of each user among some of the items."""

    scores: Tensor
    """[users, k]."""
    items: Tensor
    """[users, k]."""
    hits: Tensor
    """bool [users, k], whether validation has the item."""
    relevant: Tensor
    """[users], the number of validation items among the candidates."""

    @classmethod
    def best(
        cls,
        user: Tensor,
        users: Tensor,
        item: Tensor,
        candidates: Tensor,
        interactions: Interactions,
        k: int,
        leave_out_seen: bool = True,
    ) -> "_Lists":
        """The lists of `users` over the `candidates` (bool [n_items]), by default without the user's train items."""
        numbers = candidates.nonzero().squeeze(1)
        place = torch.full((len(item),), -1, device=item.device).index_copy(
            0, numbers, torch.arange(len(numbers), device=item.device)
        )
        size = (interactions.n_users, interactions.n_items)
        train, val = ItemLists(interactions.train, *size), ItemLists(interactions.val, *size)

        blocks = []
        for block in users.split(_block(len(numbers))):
            scores = user[block] @ item[numbers].T
            if leave_out_seen:
                scores[_places(train, block, place)] = -torch.inf
            relevant = torch.zeros_like(scores, dtype=torch.bool)
            relevant[_places(val, block, place)] = True
            best = scores.topk(min(k, len(numbers)))
            hits = relevant.gather(1, best.indices)
            blocks.append((best.values, numbers[best.indices], hits, relevant.sum(1)))
        return cls(*map(torch.cat, zip(*blocks, strict=True)))

    def without(self, items: Tensor, relevant: Tensor) -> "_Lists":
        """The first `_K` of these lists without `items` (bool [n_items]), which have `relevant` items of each user."""
        scores = torch.where(items[self.items], -torch.inf, self.scores)
        best = scores.topk(min(_K, scores.shape[1]))
        kept = best.values > -torch.inf
        hits = self.hits.gather(1, best.indices) & kept
        return _Lists(best.values, self.items.gather(1, best.indices), hits, self.relevant - relevant)

    @property
    def recall(self) -> Tensor:
        """[users]; NaN without validation items."""
        return self.hits.sum(1) / self.relevant

    def lost(self, new: "_Lists", scale: float) -> Tensor:
        """The recall of each user that is lost if `new` items, their scores times `scale`, are in the same lists."""
        first = torch.cat([self.scores, scale * new.scores], 1).topk(self.scores.shape[1]).indices
        hits = torch.cat([self.hits, torch.zeros_like(new.hits)], 1).gather(1, first)
        return self.recall - hits.sum(1) / self.relevant


def _places(lists: ItemLists, users: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of the items of `users` that have a `place`."""
    rows, items = lists.of(users)
    columns = place[items]
    return rows[columns >= 0], columns[columns >= 0]


def _warm(interactions: Interactions) -> tuple[Tensor, Tensor]:
    """Whether each user and each item has train interactions."""
    train = interactions.train
    return (
        torch.bincount(train.users, minlength=interactions.n_users) > 0,
        torch.bincount(train.items, minlength=interactions.n_items) > 0,
    )


def _filled(final: Tensor, text: Tensor, warm: Tensor, unit: bool) -> Tensor:
    if warm.all() or warm.sum() < 2:
        return final
    known = _some_rows(warm)
    weights, bias = ridge(text[known], final[known])
    predicted = text[~warm] @ weights + bias
    result = final.clone()
    result[~warm] = functional.normalize(predicted, dim=-1) if unit else predicted
    return result


def _some_rows(known: Tensor) -> Tensor:
    """The numbers of the `known` rows, bool [n], at most `_MOST_ROWS` of them."""
    rows = known.nonzero().squeeze(1)
    return rows[:: -(-len(rows) // _MOST_ROWS)]
