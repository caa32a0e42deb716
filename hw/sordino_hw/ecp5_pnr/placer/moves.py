"""The moves of the annealing. Each leaves the placement legal, and half of the proposals go to where a cell on the same net is."""

from ...compiled import compiled
from ..fabric import SLOTS
from .legal import may_share
from .state import below, chance, try_moves

__all__ = ["move_block", "move_lone", "move_macro", "move_tile"]

_DIRECTED = 0.5
"""Share of proposals that go to a cell on the same net."""

_DIRECTED_PINS = 32
"""Pins of a net up to which its cells attract proposals."""

_TRIES, _SITE_COLUMNS, _SITE_ROWS = 12, 9, 24
"""Sites that are drawn until one is within the move range, which is never less than so many columns and rows: a period of the
columns of block RAMs, and about the distance between two of their rows."""


@compiled
def _exchange(state, critical, transfers, luts, flip_flops, step, temperature):
    """Carries out the first `transfers` transfers of the work, a permutation of slots, of `luts` or `flip_flops` or both (bool), if
    the result is legal and the move is accepted. Returns whether it was."""
    slots, cells, work, grid = state.slots, state.cells, state.work, state.grid
    count = 0
    for i in range(transfers):
        tile = work.target[i] // SLOTS
        work.luts[i], work.flip_flops[i] = slots.lut[work.source[i]], slots.flip_flop[work.source[i]]
        for cell in (work.luts[i] if luts else -1, work.flip_flops[i] if flip_flops else -1):
            if cell >= 0:
                work.cell[count], work.to_x[count], work.to_y[count] = cell, grid.x[tile], grid.y[tile]
                count += 1
    allowed = True
    if flip_flops:
        for i in range(transfers):
            slots.flip_flop[work.target[i]] = work.flip_flops[i]
        for i in range(transfers):
            tile = work.target[i] // SLOTS
            if (i == 0 or tile != work.target[i - 1] // SLOTS) and not may_share(
                tile, slots.flip_flop, cells.enable, cells.control
            ):
                allowed = False
                break
    if allowed and try_moves(state, critical, count, step, temperature):
        for i in range(transfers):
            slot = work.target[i]
            if luts:
                slots.lut[slot] = work.luts[i]
                if work.luts[i] >= 0:
                    slots.of[work.luts[i]] = slot
            if flip_flops and work.flip_flops[i] >= 0:
                slots.of[work.flip_flops[i]] = slot
        return True
    if flip_flops:
        for i in range(transfers):
            slots.flip_flop[work.source[i]] = work.flip_flops[i]
    return False


@compiled
def _aim(state, cell, column, row, move_range, jitter):
    """Writes a column and row of the grid into the work's `spot`: within `jitter` tiles of a cell that shares a net with `cell`, or
    anywhere within the move range of `column`, `row`. Returns whether it is the former."""
    work, nets, grid = state.work, state.nets, state.grid
    work.spot[0] = column + below(work.state, 2 * move_range + 1) - move_range
    work.spot[1] = row + below(work.state, 2 * move_range + 1) - move_range
    if chance(work.state) < _DIRECTED:
        degree = nets.first[cell + 1] - nets.first[cell]
        if degree:
            net = nets.of[nets.first[cell] + below(work.state, degree)]
            pins = nets.start[net + 1] - nets.start[net]
            other = nets.cell[nets.start[net] + below(work.state, pins)]
            if other != cell and pins <= _DIRECTED_PINS:
                work.spot[0] = state.cells.x[other] - grid.first + below(work.state, 2 * jitter + 1) - jitter
                work.spot[1] = grid.row_of[state.cells.y[other]] + below(work.state, 2 * jitter + 1) - jitter
                return True
    return False


@compiled
def move_lone(state, critical, move_range, step, temperature):
    """A LUT, a flip-flop or a pair exchanges slots with what is elsewhere. Returns 1 if it is accepted, 0 if not, -1 if no move was
    proposed."""
    slots, cells, work, grid = state.slots, state.cells, state.work, state.grid
    cell = state.lone[below(work.state, len(state.lone))]
    a = slots.of[cell]
    tile = a // SLOTS
    _aim(state, cell, tile % grid.columns, tile // grid.columns, move_range, 1)
    if not (0 <= work.spot[0] < grid.columns and 0 <= work.spot[1] < grid.rows):
        return -1
    b = (work.spot[1] * grid.columns + work.spot[0]) * SLOTS + below(work.state, SLOTS)
    if b // SLOTS == tile:
        return -1
    lut_a, lut_b, ff_a, ff_b = slots.lut[a], slots.lut[b], slots.flip_flop[a], slots.flip_flop[b]
    both = cells.partner[cell] >= 0
    luts = both or cell == lut_a
    flip_flops = both or cell == ff_a
    if luts and lut_b >= 0 and cells.partner[lut_b] >= 0:
        flip_flops = True
    if flip_flops and ((ff_b >= 0 and cells.partner[ff_b] >= 0) or (ff_a >= 0 and cells.partner[ff_a] >= 0)):
        luts = True
    if luts and ((lut_a >= 0 and cells.partner[lut_a] >= 0) or (lut_b >= 0 and cells.partner[lut_b] >= 0)):
        flip_flops = True
    for other in (lut_a if luts else -1, lut_b if luts else -1, ff_a if flip_flops else -1, ff_b if flip_flops else -1):
        if other >= 0 and cells.macro[other] >= 0:
            return -1
    work.source[0], work.target[0], work.source[1], work.target[1] = a, b, b, a
    return int(_exchange(state, critical, 2, luts, flip_flops, step, temperature))


@compiled
def move_tile(state, critical, move_range, step, temperature):
    """Two logic tiles without placement macros exchange their contents: flip-flops of one control set move together. Returns as
    `move_lone`."""
    slots, cells, work, grid = state.slots, state.cells, state.work, state.grid
    cell = state.lone[below(work.state, len(state.lone))]
    a = slots.of[cell] // SLOTS
    _aim(state, cell, a % grid.columns, a // grid.columns, move_range, 1)
    if not (0 <= work.spot[0] < grid.columns and 0 <= work.spot[1] < grid.rows):
        return -1
    b = work.spot[1] * grid.columns + work.spot[0]
    if a == b:
        return -1
    for k in range(SLOTS):
        work.source[k], work.target[k] = SLOTS * a + k, SLOTS * b + k
        work.source[SLOTS + k], work.target[SLOTS + k] = SLOTS * b + k, SLOTS * a + k
    for k in range(2 * SLOTS):
        for other in (slots.lut[work.source[k]], slots.flip_flop[work.source[k]]):
            if other >= 0 and cells.macro[other] >= 0:
                return -1
    return int(_exchange(state, critical, 2 * SLOTS, True, True, step, temperature))


@compiled
def _twin(state, number, tile):
    """The placement macro of the shape of macro `number` that begins at `tile`, or -1."""
    slots, cells, macros = state.slots, state.cells, state.macros
    head = slots.lut[tile * SLOTS]
    if head >= 0 and cells.macro[head] >= 0:
        other = cells.macro[head]
        if macros.root[other] == tile and macros.shape[other] == macros.shape[number]:
            return other
    return -1


@compiled
def _exchange_twins(state, number, shift):
    """Lists the transfers that exchange a macro with one of its shape `shift` slots further on. Returns how many."""
    macros, work = state.macros, state.work
    first, last, root = macros.first[number], macros.first[number + 1], macros.root[number]
    count = last - first
    for i in range(count):
        slot = (root + macros.column[first + i]) * SLOTS + macros.slot[first + i]
        work.source[i], work.target[i] = slot, slot + shift
        work.source[count + i], work.target[count + i] = slot + shift, slot
    return 2 * count


@compiled
def _exchange_contents(state, number, shift, overlap):
    """Lists the transfers that move a macro by `shift` slots, and what is in its way to the slots that it leaves. `overlap` (bool):
    whether old and new slots may be the same. Returns how many, or -1 where another macro is in the way."""
    slots, cells, macros, work = state.slots, state.cells, state.macros, state.work
    first, last, root = macros.first[number], macros.first[number + 1], macros.root[number]
    count = last - first
    transfers = count
    for i in range(count):
        slot = (root + macros.column[first + i]) * SLOTS + macros.slot[first + i]
        work.source[i], work.target[i] = slot, slot + shift
        lut, flip_flop = slots.lut[slot + shift], slots.flip_flop[slot + shift]
        if lut >= 0 and cells.macro[lut] == number:
            continue
        if (lut >= 0 and cells.macro[lut] >= 0) or (flip_flop >= 0 and cells.macro[flip_flop] >= 0):
            return -1
        work.source[transfers] = slot + shift
        transfers += 1
    left = count
    for i in range(count):
        slot = work.source[i]
        behind = slot - shift
        own = overlap and 0 <= behind < len(slots.lut) and slots.lut[behind] >= 0 and cells.macro[slots.lut[behind]] == number
        if not own:  # nothing of the macro comes here
            if left == transfers:
                return -1
            work.target[left] = slot
            left += 1
    return transfers if left == transfers else -1


@compiled
def move_macro(state, critical, move_range, step, temperature):
    """A placement macro exchanges places with one of its shape, or with the lone units in its way. Returns as `move_lone`."""
    macros, work, grid = state.macros, state.work, state.grid
    number = below(work.state, len(macros.root))
    root = macros.root[number]
    first, last = macros.first[number], macros.first[number + 1]
    width = macros.column[last - 1]
    member = first + below(work.state, last - first)
    column, row = root % grid.columns, root // grid.columns
    if _aim(state, macros.cell[member], column, row, move_range, 2):
        work.spot[0] -= macros.column[member]
    if not (0 <= work.spot[0] < grid.columns - width and 0 <= work.spot[1] < grid.rows):
        return -1
    tile = work.spot[1] * grid.columns + work.spot[0]
    shift = (tile - root) * SLOTS
    if shift == 0:
        return -1
    twin = _twin(state, number, tile)
    if twin >= 0:
        transfers = _exchange_twins(state, number, shift)
    else:
        overlap = work.spot[1] == row and abs(work.spot[0] - column) <= width
        transfers = _exchange_contents(state, number, shift, overlap)
    if transfers < 0:
        return -1
    if not _exchange(state, critical, transfers, True, True, step, temperature):
        return 0
    macros.root[number] = tile
    if twin >= 0:
        macros.root[twin] = root
    return 1


@compiled
def move_block(state, critical, move_range, step, temperature):
    """A hard block exchanges its site with what is at another. Returns as `move_lone`."""
    sites, work = state.sites, state.work
    a = below(work.state, len(sites.holds))
    cell = sites.holds[a]
    if cell < 0:
        return -1
    b = -1
    for _ in range(_TRIES):
        b = sites.first[a] + below(work.state, sites.last[a] - sites.first[a])
        if (
            a != b
            and abs(sites.x[a] - sites.x[b]) <= max(move_range, _SITE_COLUMNS)
            and abs(sites.y[a] - sites.y[b]) <= max(move_range, _SITE_ROWS)
        ):
            break
        b = -1
    if b < 0:
        return -1
    other = sites.holds[b]
    work.cell[0], work.to_x[0], work.to_y[0] = cell, sites.x[b], sites.y[b]
    work.cell[1], work.to_x[1], work.to_y[1] = other, sites.x[a], sites.y[a]
    if not try_moves(state, critical, 1 if other < 0 else 2, step, temperature):
        return 0
    sites.holds[b], sites.holds[a], sites.of[cell] = cell, other, b
    if other >= 0:
        sites.of[other] = a
    return 1
