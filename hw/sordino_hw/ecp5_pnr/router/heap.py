"""A binary heap in two arrays, least key first."""

from ...compiled import compiled

__all__ = ["pop", "push"]


@compiled
def push(key, item, size, k, i):
    """Adds item `i` (int) with key `k` (float) to the first `size` entries of `key` (n,) float32 and `item` (n,) int32. Returns the
    new size."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if key[above] <= k:
            break
        key[at], item[at] = key[above], item[above]
        at = above
    key[at], item[at] = k, i
    return size + 1


@compiled
def pop(key, item, size):
    """Removes the first of the first `size` entries of `key` (n,) float32 and `item` (n,) int32. Returns the new size."""
    size -= 1
    k, i = key[size], item[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and key[below + 1] < key[below]:
            below += 1
        if k <= key[below]:
            break
        key[at], item[at] = key[below], item[below]
        at = below
    key[at], item[at] = k, i
    return size
