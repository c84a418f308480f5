"""The items with the largest inner product for many users: a blocked matrix product, and a filter before the top k.

On a CPU, the product is computed in bfloat16 if the processor is faster with it, and the result is nevertheless exact.
Let s be a score, r its rounded value, and e a bound of |s - r|. The items are divided into groups. The k groups with
the largest rounded scores contain k different items with r >= t, where t is the smallest of the k scores, so k items
have s >= t - e. Each of the k best items then also has s >= t - e, hence r >= t - 2 e. Only slightly more than k items
pass this test; they are scored again in float32.

Comparing is cheaper than sorting, and comparing 16-bit integers is cheaper than comparing floats. Interpreted as
integers, the bits of non-negative floats have the same order as the floats; those of negative floats are converted
(`_ordered`).
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Pairs = tuple[Tensor, Tensor]

_GROUP = 32  # number of items in a group
_ITEMS = 2**16  # number of items per tile
_USERS = {"cpu": 256, "cuda": 4096}  # number of users per block, whose scores of a tile stay in the cache of a CPU
_TRIED, _TRIES = 8192, 5  # number of items for timing the data types, and of products of which the fastest counts
_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class TopItems:
    """Finds each user's k items with the largest inner product, for any number of users and the same items."""

    def __init__(self, items: Tensor, dtype: torch.dtype | None = None) -> None:
        """Takes finite float32 vectors [n, d] and the `dtype` of the product; None for the faster one on this CPU."""
        dtype = dtype or fastest(items)
        self._users = _USERS[items.device.type]
        room = room_for(self._users, min(len(items), _ITEMS), dtype, items.device)
        self._tiles = [Tile(tile, dtype, room) for tile in items.split(_ITEMS)]

    @torch.no_grad()
    def top(self, users: Tensor, k: int, without: Pairs) -> tuple[Tensor, Tensor]:
        """The best items of each user, best first.

        Args:
            users: finite float32 vectors [b, d].
            k: length of a list, at least 1.
            without: excluded pairs, as rows of `users` in ascending order and items: int64 [m] each.

        Returns:
            Item numbers int64 [b, k], -1 if no item is left, and scores float32 [b, k], -inf there.
        """
        ids = torch.full((len(users), k), -1, device=users.device)
        scores = torch.full((len(users), k), -torch.inf, device=users.device)
        for block, left_out in blocks(torch.arange(len(users), device=users.device), without, self._users):
            best, values = self._block(users[block], k, left_out)
            ids[block, : best.shape[1]] = best.masked_fill(values == -torch.inf, -1)
            scores[block, : best.shape[1]] = values
        return ids, scores

    def _block(self, users: Tensor, k: int, left_out: Pairs) -> Pairs:
        """The best items of every tile, and the best of these."""
        rows, items = left_out
        found = []
        for number, tile in enumerate(self._tiles):
            inside = (items // _ITEMS == number).nonzero()[:, 0] if len(self._tiles) > 1 else slice(None)
            best, values = tile.top(users, k, (rows[inside], items[inside] - number * _ITEMS))
            found.append((best + number * _ITEMS, values))
        if len(found) == 1:
            return found[0]
        ids, scores = (torch.cat(side, 1) for side in zip(*found, strict=True))
        best = scores.topk(min(k, scores.shape[1]))
        return ids.gather(1, best.indices), best.values


class Tile:
    """A part of the items, [n, d]. Item i is in group i % groups, so that a group's scores are `groups` apart."""

    def __init__(self, items: Tensor, dtype: torch.dtype, room: Tensor) -> None:
        self.items, self.n_items, self.dtype = items, len(items), dtype
        padded = functional.pad(items, (0, 0, 0, _padded(self.n_items) - self.n_items))
        self.groups = len(padded) // _GROUP
        self.rounded = padded.to(dtype).T
        self.room = room  # memory for the scores, reused for every block and tile
        self.nothing = _ordered(torch.tensor(-torch.inf, dtype=dtype).view(_INTEGERS[dtype]))  # key of excluded items
        self.largest = float(items.norm(dim=1).amax())
        self.rounding = float((padded - self.rounded.T.float()).norm(dim=1).amax())

    def top(self, users: Tensor, k: int, left_out: Pairs, above: Tensor | None = None) -> Pairs:
        """The min(k, n) best items of each user; excluded items have the score -inf.

        Items with scores below `above`, [b], may be left out; the last items of a list are then -1 with the score -inf.
        """
        k = min(k, self.n_items)
        if above is None and 2 * k > self.groups:  # few items or long lists: most items would pass the filter
            return self._all(users, k, left_out)
        rows, items = self._candidates(users, k, left_out, above)
        if len(rows) * users.shape[1] > len(users) * self.n_items:  # most items have the same score for some users
            return self._all(users, k, left_out)
        return self._exact(users, rows, items, k)

    def _all(self, users: Tensor, k: int, left_out: Pairs) -> Pairs:
        scores = torch.mm(users, self.items.T)
        scores[left_out] = -torch.inf
        best = scores.topk(k)
        return best.indices, best.values

    def _candidates(self, users: Tensor, k: int, left_out: Pairs, above: Tensor | None) -> Pairs:
        """The pairs that pass the filter: rows of `users` in ascending order, and items."""
        rounded = users.to(self.dtype)
        width = _GROUP * self.groups
        scores = torch.mm(rounded, self.rounded, out=self.room[: len(users) * width].view(-1, width))
        scores[left_out] = -torch.inf
        keys = scores.view(_INTEGERS[self.dtype])
        greatest = keys.view(len(users), _GROUP, self.groups).amax(1)  # maximum of each group, [b, groups]
        least = self._least(users, rounded, greatest, k, above)
        if (least <= 0).any():
            keys.copy_(_ordered(keys))
            keys[:, self.n_items :] = torch.iinfo(keys.dtype).min  # padding is not an item
            greatest = keys.view(len(users), _GROUP, self.groups).amax(1)
            least = self._least(users, rounded, greatest, k, above)

        rows, groups = (greatest >= least[:, None]).nonzero(as_tuple=True)  # groups that hold candidates, [m]
        step = torch.arange(0, width, self.groups, device=users.device)
        places = (rows * width + groups)[:, None] + step
        members = keys.view(-1).gather(0, places.view(-1)).view(places.shape)  # [m, _GROUP]
        group, member = (members >= least[rows, None]).nonzero(as_tuple=True)
        return rows[group], groups[group] + step[member]

    def _least(self, users: Tensor, rounded: Tensor, greatest: Tensor, k: int, above: Tensor | None) -> Tensor:
        """The smallest key that a user's k best items may have: t - 2 e in the description of this file, [b].

        With the smallest score that matters known, t is this score.
        """
        t = _ordered(_kth(greatest, k)).view(self.dtype).float() if above is None else above

        # |u.i - u'.i'| <= |u - u'| |i| + |u'| |i - i'|, plus the rounding of the sum and of its result.
        lengths, error = rounded.float().norm(dim=1), (users - rounded.float()).norm(dim=1)
        e = error * self.largest + lengths * self.rounding
        e += users.shape[1] * torch.finfo(torch.float32).eps * lengths * (self.largest + self.rounding)
        e += t.abs() * torch.finfo(self.dtype).eps

        bound = _ordered((t - 2 * e).to(self.dtype).view(_INTEGERS[self.dtype]))
        return bound.clamp_min(int(self.nothing) + 1)

    def _exact(self, users: Tensor, rows: Tensor, items: Tensor, k: int) -> Pairs:
        """The k best of each user's candidates, given as pairs in the order of `rows`, by their float32 scores."""
        values = (users[rows] * self.items[items]).sum(1)
        counts = torch.bincount(rows, minlength=len(users))
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]

        # One row per user, filled from the left.
        width = max(int(counts.max()), k)
        scores = users.new_full((len(users), width), -torch.inf)
        ids = torch.full(scores.shape, -1, device=users.device)
        scores[rows, place], ids[rows, place] = values, items
        best = scores.topk(k)
        return ids.gather(1, best.indices), best.values


def blocks(users: Tensor, left_out: Pairs, size: int) -> Iterator[tuple[Tensor, Pairs]]:
    """`users` in blocks of `size`, with each block's excluded pairs: rows of `users` in ascending order, and items."""
    rows, items = left_out
    parts = users.split(size) if len(users) else ()
    bounds = torch.arange(len(parts) + 1, device=users.device) * size
    bounds = torch.searchsorted(rows.contiguous(), bounds).tolist()
    for number, part in enumerate(parts):
        inside = slice(bounds[number], bounds[number + 1])
        yield part, (rows[inside] - number * size, items[inside])


def room_for(users: int, items: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for the scores of a block of users and a tile of items."""
    return torch.empty(users * _padded(items), dtype=dtype, device=device)


def _padded(items: int) -> int:
    """The smallest number of items in complete groups."""
    return -(-items // _GROUP) * _GROUP


def _ordered(bits: Tensor) -> Tensor:
    """Maps the bits of floats to integers with the same order. Applied twice, it is the identity.

    A float has a sign and a magnitude. For negative floats, larger bits mean a larger magnitude: all bits except the
    sign are inverted.
    """
    sign = bits >> (torch.iinfo(bits.dtype).bits - 1)
    return sign.bitwise_and_(torch.iinfo(bits.dtype).max).bitwise_xor_(bits)


def _kth(keys: Tensor, k: int) -> Tensor:
    """The k-th largest value of each row. On a CPU, NumPy takes a tenth of the time."""
    if keys.device.type != "cpu":
        return keys.topk(k, sorted=False).values.amin(1)
    place = keys.shape[1] - k
    return torch.from_numpy(np.partition(keys.numpy(), place, axis=1)[:, place].copy())


def fastest(items: Tensor) -> torch.dtype:
    """The data type with the fastest product on this machine, timed on a part of the items; float32 on a GPU."""
    if items.device.type != "cpu":
        return torch.float32
    seconds = {}
    for dtype in _INTEGERS:
        right = items[:_TRIED].to(dtype).T
        left = right.T[: _USERS["cpu"]].contiguous()
        torch.mm(left, right)  # warm-up
        tries = []
        for _ in range(_TRIES):  # other processes may interrupt some of them
            started = time.perf_counter()
            torch.mm(left, right)
            tries.append(time.perf_counter() - started)
        seconds[dtype] = min(tries)
    return min(seconds, key=seconds.__getitem__)
