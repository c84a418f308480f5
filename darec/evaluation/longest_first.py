"""The items with the largest inner product for many users, where the longest items suffice.

|u.i| <= |u| |i|, so with the items sorted by length a user is finished when the k-th best score so far is above this
bound for all items that are left (LEMP: Teflioudi and Gemulla, TODS 2016). Popular items have the longest vectors in
most models with inner products: most users are finished after a small part of the items.
"""

import torch
from torch import Tensor

from darec.evaluation.top_items import Pairs, Tile, blocks, fastest, room_for

_SMALLEST, _LARGEST = 2**12, 2**14  # number of items of a tile; small ones come first, so that users are finished early
_GROWTH = 1 / 4  # number of items of a tile, relative to those before it
_USERS = {"cpu": 512, "cuda": 4096}  # number of users per block, whose scores of a tile stay in the cache of a CPU
_ROUNDING = 1e-4  # relative error of a bound; that of a sum of d products is below d times 1e-7


class LongestFirst:
    """Finds the same items as `TopItems`, in another order among items of equal score."""

    def __init__(self, items: Tensor, dtype: torch.dtype | None = None) -> None:
        """Takes the same arguments as `TopItems`."""
        dtype = dtype or fastest(items)
        self._users = _USERS[items.device.type]
        self._order = items.norm(dim=1).argsort(descending=True, stable=True)
        self._place = self._order.argsort().int()
        sizes = _sizes(len(items))
        room = room_for(self._users, max(sizes, default=0), dtype, items.device)
        self._tiles = [Tile(tile, dtype, room) for tile in items[self._order].split(sizes) if len(tile)]

    @torch.no_grad()
    def top(self, users: Tensor, k: int, without: Pairs) -> tuple[Tensor, Tensor]:
        """As `TopItems.top`. The more users at once, the fewer small blocks are left for the last tiles."""
        places = torch.full((len(users), k), -1, device=users.device)
        scores = torch.full((len(users), k), -torch.inf, device=users.device)
        seen, place = without[0], self._place[without[1]]

        start, left = 0, torch.arange(len(users), device=users.device)
        for tile in self._tiles:
            left = left[scores[left, -1] < _bound(users[left], tile)]
            if not len(left):
                break
            inside = ((place >= start) & (place < start + tile.n_items)).nonzero()[:, 0]
            excluded = _among(left, seen[inside], place[inside].long() - start, len(users))
            for block, left_out in blocks(left, excluded, self._users):
                # Until a list is full, its k best items of this tile are needed.
                least = scores[block, -1]
                found, values = tile.top(users[block], k, left_out, least if (least > -torch.inf).all() else None)
                values = torch.cat([scores[block], values], 1)
                best = values.topk(k)
                places[block] = torch.cat([places[block], found + start], 1).gather(1, best.indices)
                scores[block] = best.values
            start += tile.n_items

        return self._order[places.clamp_min(0)].masked_fill(scores == -torch.inf, -1), scores

    def scored(self, users: Tensor, scores: Tensor) -> float:
        """The mean number of items that `top` scores for users [b, d] whose k-th best scores are `scores` [b]."""
        shares = [float((scores < _bound(users, tile)).double().mean()) for tile in self._tiles]
        return sum(share * tile.n_items for share, tile in zip(shares, self._tiles, strict=True))


def _sizes(items: int) -> list[int]:
    """The number of items of each tile."""
    sizes, before = [], 0
    while before < items:
        sizes.append(min(max(_SMALLEST, int(_GROWTH * before)), _LARGEST, items - before))
        before += sizes[-1]
    return sizes


def _bound(users: Tensor, tile: Tile) -> Tensor:
    """An upper bound of the scores of a tile's items, [b]."""
    return users.norm(dim=1) * tile.largest * (1 + _ROUNDING)


def _among(chosen: Tensor, rows: Tensor, items: Tensor, n: int) -> Pairs:
    """The pairs of the `chosen` of n users, with their numbers in `chosen`, both in ascending order."""
    number = torch.full((n,), -1, device=chosen.device)
    number[chosen] = torch.arange(len(chosen), device=chosen.device)
    rows = number[rows]
    return rows[rows >= 0], items[rows >= 0]
