"""What follows a product reads or changes, tile by tile, so that it is asked for before the tile's last steps.

It is numbers and no function, so that products with different work after them are compiled once.
"""

from .compile import jit
from .simd import address_of, lanes, pointer_at, prefetch, prefetch_to_write


@jit
def nothing_ahead(c):
    """What follows a product to c reads nothing but its blocks."""
    nothing = pointer_at(0, c)
    return nothing, 0, 1, nothing, nothing, nothing, 0


@jit
def reading_ahead(p, row, columns_each, c):
    """What follows a product to c reads p, `row` elements to each row of C and one element to so many columns."""
    nothing = pointer_at(0, c)
    return pointer_at(address_of(p), c), row, columns_each, nothing, nothing, nothing, 0


@jit
def changing_ahead(read, changed, row):
    """What follows a product reads `read` and changes three matrices, all as wide as C; a pointer 0 is none of them."""
    first, second, third = changed
    return read, row, 1, first, second, third, row


@jit
def prefetch_tile(ask, rows, columns, p, p_row):
    """Ask for p[rows, columns], by `prefetch` or `prefetch_to_write`."""
    for _ in range(rows):
        for j in range(0, columns, lanes(p)):
            ask(p + j)
        p += p_row


@jit
def ask_for(ahead, i, j, rows, columns):
    """Ask for what will be read and changed where C's tile [rows, columns] at (i, j) is done."""
    read, read_row, columns_each, first, second, third, row = ahead
    if address_of(read) != 0:
        place = read + (i * read_row + j // columns_each)
        prefetch_tile(prefetch, rows, -(-columns // columns_each), place, read_row)
    place = i * row + j
    for changed in first, second, third:
        if address_of(changed) != 0:
            prefetch_tile(prefetch_to_write, rows, columns, changed + place, row)
