"""The items with the largest inner product for many users: a blocked matrix product, and a filter before the top k.

The product is computed in bfloat16 if the processor is faster with it, and the result is nevertheless exact. Let s be a
score, r its rounded value, and e a bound of |s - r|. The items are divided into groups. The k groups with the largest
rounded scores contain k different items with r >= t, where t is the smallest of the k scores, so k items have s >= t -
e. Each of the k best items then also has s >= t - e, hence r >= t - 2 e. Only slightly more than k items pass this
test; they are scored again in float32.

Comparing is cheaper than sorting, and comparing 16-bit integers is cheaper than comparing floats. Interpreted as
integers, the bits of non-negative floats have the same order as the floats; those of negative floats are converted
(`_ordered`).
"""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pairs = tuple[Tensor, Tensor]

_GROUP = 32  # number of items in a group
_USERS, _ITEMS = 256, 2**16  # number of items per tile, whose scores stay in the cache for any size of the catalogue
_TRIED = 8192  # number of items for timing the data types
_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class TopItems:
    """Finds each user's k items with the largest inner product, for any number of users and the same items."""

    def __init__(self, items: Floats, dtype: torch.dtype | None = None) -> None:
        """Takes finite vectors [n, d] and the `dtype` of the product; None for the faster one on this machine."""
        vectors = torch.tensor(items, dtype=torch.float32)
        dtype = dtype or _fastest(vectors)
        self._tiles = [_Tile(tile, dtype) for tile in vectors.split(_ITEMS)]

    @torch.no_grad()
    def top(self, users: Floats, k: int, without: tuple[Ints, Ints]) -> tuple[Ints, Floats]:
        """The best items of each user, best first.

        Args:
            users: finite vectors [b, d].
            k: length of a list, at least 1.
            without: pairs to leave out, as rows of `users` and items: int64 [m] each.

        Returns:
            Item numbers [b, k], -1 if no item is left, and scores [b, k], -inf there.
        """
        vectors = torch.tensor(users, dtype=torch.float32)
        order = np.argsort(without[0], kind="stable")
        rows, items = (torch.from_numpy(side[order]) for side in without)
        ids = np.full((len(users), k), -1, np.int64)
        scores = np.full((len(users), k), -np.inf, np.float32)
        for start in range(0, len(users), _USERS):
            block = vectors[start : start + _USERS]
            low, high = torch.searchsorted(rows, torch.tensor([start, start + len(block)])).tolist()
            best, values = self._block(block, k, (rows[low:high] - start, items[low:high]))
            ids[start : start + len(block), : best.shape[1]] = np.where(np.isneginf(values), -1, best)
            scores[start : start + len(block), : best.shape[1]] = values
        return ids, scores

    def _block(self, users: Tensor, k: int, left_out: Pairs) -> tuple[Ints, Floats]:
        """The best items of every tile, and the best of these."""
        rows, items = left_out
        found = []
        for number, tile in enumerate(self._tiles):
            inside = (items // _ITEMS == number).nonzero()[:, 0] if len(self._tiles) > 1 else slice(None)
            best, values = tile.top(users, k, (rows[inside], items[inside] - number * _ITEMS))
            found.append((best + number * _ITEMS, values))
        if len(found) == 1:
            return found[0]
        ids, scores = (np.concatenate(side, axis=1) for side in zip(*found, strict=True))
        places = torch.from_numpy(scores).topk(min(k, scores.shape[1])).indices.numpy()
        return np.take_along_axis(ids, places, 1), np.take_along_axis(scores, places, 1)


class _Tile:
    """A part of the items, [n, d]. Item i is in group i % groups, so that a group's scores are `groups` apart."""

    def __init__(self, items: Tensor, dtype: torch.dtype) -> None:
        self.items, self.n_items, self.dtype = items, len(items), dtype
        self.groups = -(-self.n_items // _GROUP)
        padded = functional.pad(items, (0, 0, 0, self.groups * _GROUP - self.n_items))
        self.rounded = padded.to(dtype).T
        self.scores = torch.empty(_USERS, _GROUP * self.groups, dtype=dtype)  # memory that is reused for every block
        self.nothing = _ordered(torch.tensor(-torch.inf, dtype=dtype).view(_INTEGERS[dtype]))  # key of excluded items
        self.largest = float(items.norm(dim=1).amax())
        self.rounding = float((padded - self.rounded.T.float()).norm(dim=1).amax())

    def top(self, users: Tensor, k: int, left_out: Pairs) -> tuple[Ints, Floats]:
        """The min(k, n) best items of each user; excluded items have the score -inf."""
        k = min(k, self.n_items)
        if 2 * k <= self.groups:
            return self._filtered(users, k, left_out)
        scores = users @ self.items.T  # few items or long lists: most items would pass the filter
        scores[left_out] = -torch.inf
        best = scores.topk(k)
        return best.indices.numpy(), best.values.numpy()

    def _filtered(self, users: Tensor, k: int, left_out: Pairs) -> tuple[Ints, Floats]:
        rounded = users.to(self.dtype)
        scores = torch.mm(rounded, self.rounded, out=self.scores[: len(users)])  # [b, _GROUP * groups]
        scores[left_out] = -torch.inf
        keys = scores.view(_INTEGERS[self.dtype])
        greatest = keys.view(len(users), _GROUP, self.groups).amax(1).numpy()  # maximum of each group, [b, groups]
        least = self._least(users, rounded, greatest, k)
        if (least <= 0).any():
            keys.copy_(_ordered(keys))
            keys[:, self.n_items :] = torch.iinfo(keys.dtype).min  # padding is not an item
            greatest = keys.view(len(users), _GROUP, self.groups).amax(1).numpy()
            least = self._least(users, rounded, greatest, k)

        rows, groups = np.divmod(np.flatnonzero(greatest >= least[:, None]), self.groups)  # groups with candidates, [m]
        step = np.arange(_GROUP) * self.groups
        members = keys.numpy().ravel()[(rows * (_GROUP * self.groups) + groups)[:, None] + step]  # [m, _GROUP]
        group, member = np.divmod(np.flatnonzero(members >= least[rows, None]), _GROUP)
        return self._exact(users, rows[group], groups[group] + step[member], k)

    def _least(self, users: Tensor, rounded: Tensor, greatest: NDArray[Any], k: int) -> NDArray[Any]:
        """The smallest key that a user's k best items may have: t - 2 e above, [b]."""
        kth = np.partition(greatest, self.groups - k, axis=1)[:, self.groups - k]
        t = _ordered(torch.from_numpy(kth)).view(self.dtype).float()

        # |u.i - u'.i'| <= |u - u'| |i| + |u'| |i - i'|, plus the rounding of the sum and of its result.
        lengths, error = rounded.float().norm(dim=1), (users - rounded.float()).norm(dim=1)
        e = error * self.largest + lengths * self.rounding
        e += users.shape[1] * torch.finfo(torch.float32).eps * lengths * (self.largest + self.rounding)
        e += t.abs() * torch.finfo(self.dtype).eps

        bound = _ordered((t - 2 * e).to(self.dtype).view(_INTEGERS[self.dtype]))
        return torch.maximum(bound, self.nothing + 1).numpy()

    def _exact(self, users: Tensor, rows: Ints, items: Ints, k: int) -> tuple[Ints, Floats]:
        """The k best of each user's candidates, given as pairs in the order of `rows`, by their float32 scores."""
        values = (users[torch.from_numpy(rows)] * self.items[torch.from_numpy(items)]).sum(1)
        counts = np.bincount(rows, minlength=len(users))
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)

        # One row per user, filled from the left.
        width = max(int(counts.max(initial=0)), k)
        scores, ids = np.full((len(users), width), -np.inf, np.float32), np.full((len(users), width), -1, np.int64)
        scores[rows, place], ids[rows, place] = values.numpy(), items
        best = torch.from_numpy(scores).topk(k)
        return np.take_along_axis(ids, best.indices.numpy(), 1), best.values.numpy()


def _ordered(bits: Tensor) -> Tensor:
    """Maps the bits of floats to integers with the same order. Applied twice, it is the identity.

    A float has a sign and a magnitude. For negative floats, larger bits mean a larger magnitude: all bits except the
    sign are inverted.
    """
    sign = bits >> (torch.iinfo(bits.dtype).bits - 1)
    return sign.bitwise_and_(torch.iinfo(bits.dtype).max).bitwise_xor_(bits)


def _fastest(items: Tensor) -> torch.dtype:
    """The data type with the fastest product on this machine, timed on a part of the items."""
    seconds = {}
    for dtype in _INTEGERS:
        right = items[:_TRIED].to(dtype).T
        left = right.T[:_USERS].contiguous()
        torch.mm(left, right)  # warm-up
        started = time.perf_counter()
        torch.mm(left, right)
        seconds[dtype] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)
