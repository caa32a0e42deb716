"""A binary heap in two arrays, least key first."""

from numba import njit

__all__ = ["pop", "push"]


@njit(cache=True)
def push(key, item, size, k, i):
    """Adds an item; returns the new size."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if key[above] <= k:
            break
        key[at], item[at] = key[above], item[above]
        at = above
    key[at], item[at] = k, i
    return size + 1


@njit(cache=True)
def pop(key, item, size):
    """Takes the first item away; returns the new size."""
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
