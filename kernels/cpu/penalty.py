"""L2's penalty: l2/2 times the sum of the squared weights, biases apart, added up in a fixed order."""

from .compile import jit
from .phases import claim, finish, move_on
from .simd import float64_at, lanes, load_first, wide_add_square, wide_total, wide_zeros
from .tables import INPUTS, LAYER_FIELDS, LAYERS, OUTPUTS, SQUARES, WEIGHTS

PARTS = 16
"""Parts of a layer's weights that the members of a team add up for themselves."""


@jit
def sum_of_squares(count, p):
    """The sum of p[count]^2 in float64, in two chains for each lane."""
    even, odd = wide_zeros(p), wide_zeros(p)
    for j in range(0, count, 2 * lanes(p)):
        even = wide_add_square(even, load_first(p + j, min(lanes(p), count - j)))
        odd = wide_add_square(odd, load_first(p + (j + lanes(p)), max(0, min(lanes(p), count - j - lanes(p)))))
    return wide_total(even) + wide_total(odd)


@jit
def penalty(shared, me, plan, layers, l2, w, value):
    """Two phases: the parts' sums, and from them the penalty of all layers to value[0]."""
    parts, sums = plan[LAYERS] * PARTS, float64_at(plan[SQUARES])
    part = claim(shared, me, parts)
    while part >= 0:
        layer, share = layers + part // PARTS * LAYER_FIELDS, part % PARTS
        size = layer[INPUTS] * layer[OUTPUTS]
        first, after = size * share // PARTS, size * (share + 1) // PARTS
        sums[part] = sum_of_squares(after - first, w + (layer[WEIGHTS] + first))
        part = claim(shared, me, parts)
    finish(shared, me, parts)
    # A phase of its own, done before the next step's sums overwrite these.
    if claim(shared, me, 1) == 0:
        total = 0.0
        for part in range(parts):
            total += sums[part]
        value[0] = 0.5 * l2 * total
    move_on(shared, me, 1)
