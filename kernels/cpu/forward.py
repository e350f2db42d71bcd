"""A whole network forward, in blocks of rows that fit the workspace."""

from collections.abc import Callable

import numpy as np

from ..network import Network
from .compile import entry
from .direct import (
    OWN,
    PLAIN,
    WRITABLE,
    address,
    data_of,
    direct,
    integer_of,
    is_array,
    length_of,
    reads_arrays,
    stack_integers,
)
from .layer import forward_layer
from .operands import pair_matrix
from .phases import conducted, conducted_alone
from .simd import address_of, int64_at, pointer_at
from .squares import LEFT, RIGHT
from .tables import (
    ACTIVATION,
    BIAS,
    CAPACITY,
    INPUTS,
    LAYER_FIELDS,
    LAYERS,
    OUTPUT,
    OUTPUTS,
    PACKED,
    ROWS,
    SCRATCH,
    W_DOWN,
    WEIGHTS,
    X_ACROSS,
    Y_ACROSS,
)
from .team import LONG_FLOPS, PARALLEL_FLOPS, conduct, is_shared, members
from .workspace import Workspace


@entry
def _forward(shared, me, like, pairs, parameters, layers_address, plan_address, x, rows, out):
    w, layers, plan = pointer_at(parameters, like), int64_at(layers_address), int64_at(plan_address)
    operand = like if pairs is None else pairs
    packed, scratch = pointer_at(plan[PACKED], operand), pointer_at(plan[SCRATCH], like)
    last = plan[LAYERS] - 1
    if pairs is not None:
        for index in range(last + 1):
            layer = layers + index * LAYER_FIELDS
            down = pointer_at(layer[W_DOWN], pairs)
            nothing, k, m = pointer_at(0, pairs), layer[INPUTS], layer[OUTPUTS]
            pair_matrix(shared, me, RIGHT, k, m, w + layer[WEIGHTS], nothing, down)
    for first in range(0, rows, plan[ROWS]):
        n = min(plan[ROWS], rows - first)
        block_x = pointer_at(x, like) + first * layers[INPUTS]
        if pairs is not None:
            across, k = pointer_at(plan[X_ACROSS], pairs), layers[INPUTS]
            pair_matrix(shared, me, LEFT, n, k, block_x, across, pointer_at(0, pairs))
        below = block_x if pairs is None else pointer_at(plan[X_ACROSS], pairs)
        for index in range(last + 1):
            layer = layers + index * LAYER_FIELDS
            m = layer[OUTPUTS]
            y = pointer_at(layer[OUTPUT], like) if index < last else pointer_at(out, like) + first * m
            forward_layer(
                shared, me, n, layer[INPUTS], m, below,
                w + layer[WEIGHTS] if pairs is None else pointer_at(layer[W_DOWN], pairs), w + layer[BIAS], y,
                None if pairs is None else pointer_at(layer[Y_ACROSS], pairs),
                None if pairs is None else pointer_at(0, pairs),
                y, False, layer[ACTIVATION], packed, plan[CAPACITY], scratch,
            )  # fmt: skip
            below = y if pairs is None else pointer_at(layer[Y_ACROSS], pairs)


@entry
def _forward_rounding(shared, me, like, pairs, parameters, layers_address, plan_address, x, rows, out):
    """A few rows in bfloat16: no pairs are made of the weights, which are read but once; `pairs` reads and rounds."""
    w, layers, plan = pointer_at(parameters, like), int64_at(layers_address), int64_at(plan_address)
    packed, scratch = pointer_at(plan[PACKED], pairs), pointer_at(plan[SCRATCH], like)
    last, below = plan[LAYERS] - 1, pointer_at(x, pairs)
    for index in range(last + 1):
        layer = layers + index * LAYER_FIELDS
        y = pointer_at(layer[OUTPUT] if index < last else out, like)
        forward_layer(
            shared, me, rows, layer[INPUTS], layer[OUTPUTS], below,
            pointer_at(address_of(w + layer[WEIGHTS]), pairs), w + layer[BIAS], y, None, None, y, False,
            layer[ACTIVATION], packed, plan[CAPACITY], scratch,
        )  # fmt: skip
        below = pointer_at(address_of(y), pairs)


def forward(network: Network, parameters: np.ndarray, x: np.ndarray, out: np.ndarray, workspace: Workspace) -> None:
    """out[n, outputs] = the network's outputs of x[n, inputs], any n, in blocks of workspace.rows."""
    rows = len(x)
    if rows == 0:
        return
    entry, tables = _forward.in_parts(workspace.parts), workspace.tables
    if rows <= workspace.few_rows:
        entry, tables = (_forward_rounding.rounding if network.bfloat16 else _forward), workspace.few_tables
    block = min(rows, workspace.rows)
    shares = workspace.is_large or is_shared(block * workspace.row_flops, -(-rows // block))
    job = address(parameters), *tables, address(x), rows, address(out)
    threads, flops = None if shares else 1, rows * workspace.row_flops
    conduct(entry.address(network.dtype), job, threads, flops, workspace.products.threads)


DTYPE, IN, OUT, ROW_FLOPS, ENTRY, PARAMETERS, FORWARD_LAYERS, FORWARD_PLAN = range(OWN, OWN + 8)


@direct
def _forward_directly(known, arguments, count):
    """(x, out), or to share the work (x, out, team, size): what `predictor` gives; it judges all but their number."""
    x, out = arguments[0], arguments[1]
    if not (is_array(known, x, known[DTYPE], 2, PLAIN) and is_array(known, out, known[DTYPE], 2, WRITABLE)):
        return False
    rows = length_of(x, 0)
    if length_of(x, 1) != known[IN] or length_of(out, 0) != rows or length_of(out, 1) != known[OUT]:
        return False
    if rows == 0:
        return False
    job = stack_integers(6)
    job[0], job[1], job[2] = known[PARAMETERS], known[FORWARD_LAYERS], known[FORWARD_PLAN]
    job[3], job[4], job[5] = data_of(x), rows, data_of(out)
    flops = rows * known[ROW_FLOPS]
    if count == 2:
        conducted_alone(known[ENTRY], address_of(job), flops)
    else:
        team, size = integer_of(arguments[2]), integer_of(arguments[3])
        conducted(team, known[ENTRY], address_of(job), size, flops >= LONG_FLOPS)
    return True


def predictor(
    network: Network, parameters: np.ndarray, workspace: Workspace
) -> tuple[Callable[[np.ndarray, np.ndarray], int], int, Callable[[np.ndarray, np.ndarray], int]] | None:
    """A function (x, out), up to how many rows it is for, and one for more: kernels/README.md."""
    if not reads_arrays() or workspace.parts:
        return None
    function, _ = _forward_directly.bound(
        id(network.dtype), network.widths[0], network.widths[-1], workspace.row_flops,
        _forward.address(network.dtype), address(parameters), *workspace.tables, keeps=(parameters, workspace),
    )  # fmt: skip

    def share(x: np.ndarray, out: np.ndarray) -> int:
        team, size = members()
        return function(x, out, team, min(size, workspace.products.threads))

    return function, 0 if workspace.is_large else (PARALLEL_FLOPS - 1) // workspace.row_flops, share
