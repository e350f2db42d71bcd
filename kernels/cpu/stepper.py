"""One training step, or its gradients, as a direct function: all but the batch is bound before."""

from collections.abc import Callable

import numpy as np

from ..contract import GRADIENT_CODE, LOSSES, OPTIMIZERS, RUNNING, UPDATES, WANTED, step_flops
from ..network import Network, Optimizer
from .compile import jit
from .direct import (
    OWN,
    PLAIN,
    WRITABLE,
    address,
    data_of,
    direct_object,
    float_of,
    integer_of,
    is_array,
    length_of,
    new_float,
    new_integer,
    reads_arrays,
    stack_integers,
)
from .optimizers import LEARNING_RATE, settings_of
from .phases import conducted, conducted_alone
from .simd import (
    address_of,
    any_lane,
    float32_at,
    float64_at,
    int64_at,
    lanes,
    load,
    load_first,
    select,
    splat,
)
from .team import ALONE, LONG_FLOPS, PARALLEL_FLOPS, is_shared
from .train import way_of
from .workspace import Workspace

(
    DTYPE, ITEM, INTEGER, IN, OUT, TARGET, MOST_ROWS, MOST_MEMBERS, ROW_FLOPS, ENTRY, PARAMETERS, SIZE, STATE,
    SLOTS, SETTINGS, COUNTS, STEP_LAYERS, STEP_PLAN,
) = range(OWN, OWN + 18)  # fmt: skip
"""What a step is bound to; TARGET is the place of the loss's kind of targets in TARGETS, ITEM the bytes of a float."""

TARGETS = "values", "probabilities", "classes"

_INTEGER = np.dtype(np.int64)

_LARGEST_FLOAT32, _LARGEST_FLOAT64 = (float(np.finfo(each).max) for each in (np.float32, np.float64))


@jit
def _are_labels(count, labels, outputs):
    """Whether each of the int64 labels names one of the outputs."""
    outside = 0
    for i in range(count):
        outside += not 0 <= labels[i] < outputs
    return outside == 0


@jit
def _marked(outside, value, least, most):
    """1 where the value, perhaps NaN, does not lie between the two, else what `outside` is there."""
    return select(value >= least, select(value <= most, outside, 1.0), 1.0)


@jit
def _are_within(count, values, least, most):
    """Whether each of the values lies between the two, of its own type, between which 0 lies too."""
    size = lanes(values)
    outside = splat(values, 0.0)
    whole = count - count % size
    for i in range(0, whole, size):
        outside = _marked(outside, load(values + i), least, most)
    if whole < count:
        outside = _marked(outside, load_first(values + whole, count - whole), least, most)
    return not any_lane(outside > 0.0)


@jit
def _is_target(known, rows, target):
    """Whether `arrays.as_target` would take the array as it is; of classes labels alone are known here."""
    outputs = known[OUT]
    if known[TARGET] == 2:
        if not is_array(known, target, known[INTEGER], 1, PLAIN) or length_of(target, 0) != rows:
            return False
        return _are_labels(rows, int64_at(data_of(target)), outputs)
    is_row = outputs == 1 and is_array(known, target, known[DTYPE], 1, PLAIN)
    is_table = is_array(known, target, known[DTYPE], 2, PLAIN) and length_of(target, 1) == outputs
    if not (is_row or is_table) or length_of(target, 0) != rows:
        return False
    largest = _LARGEST_FLOAT32 if known[ITEM] == 4 else _LARGEST_FLOAT64
    least, most = (0.0, 1.0) if known[TARGET] == 1 else (-largest, largest)
    if known[ITEM] == 4:
        return _are_within(rows * outputs, float32_at(data_of(target)), least, most)
    return _are_within(rows * outputs, float64_at(data_of(target)), least, most)


@jit
def _is_apart(known, value, size):
    """Whether an array of so many bytes lies outside what a step changes while it reads."""
    first, buffer = data_of(value), known[SIZE] * known[ITEM]
    for start, slots in ((known[PARAMETERS], 1), (known[STATE], known[SLOTS])):
        if start < first + size and first < start + slots * buffer:
            return False
    return True


@jit
def _is_its_turn(known):
    """Whether no other call trains the network, nor anybody waits to."""
    counts = int64_at(known[COUNTS])
    return counts[RUNNING] == 0 and counts[WANTED] == 0


@jit
def _run(known, x, target, state, updates, value, team, size):
    """Make the step, J to `value`, if x and its targets need no judging; whether it was made. Large ones are shared."""
    if not is_array(known, x, known[DTYPE], 2, PLAIN) or length_of(x, 1) != known[IN]:
        return False
    rows = length_of(x, 0)
    if rows == 0 or rows > known[MOST_ROWS] or not _is_target(known, rows, target):
        return False
    if not _is_apart(known, x, rows * known[IN] * known[ITEM]):
        return False
    if not _is_apart(known, target, rows * known[OUT] * known[ITEM]):
        return False
    has_labels = known[TARGET] == 2
    job = stack_integers(17)
    job[0], job[1], job[2], job[3], job[4], job[5] = (
        known[PARAMETERS], known[SIZE], state, known[SETTINGS], address_of(value), 1,
    )  # fmt: skip
    job[6], job[7], job[8] = known[STEP_LAYERS], known[STEP_PLAN], data_of(x)
    job[9], job[10] = 0 if has_labels else data_of(target), data_of(target) if has_labels else 0
    job[11], job[12], job[13], job[14], job[15], job[16] = 0, rows, 0, rows, updates, 0
    flops = rows * known[ROW_FLOPS]
    counts = int64_at(known[COUNTS])
    counts[RUNNING] = 1
    if flops < PARALLEL_FLOPS:
        conducted_alone(known[ENTRY], address_of(job), flops)
    else:
        conducted(team, known[ENTRY], address_of(job), min(size, known[MOST_MEMBERS]), flops >= LONG_FLOPS)
    counts[RUNNING] = 0
    return True


@direct_object
def _step_directly(known, arguments, count):
    """(x, target, learning_rate, team, size): what `stepper` gives, without a team for small steps alone."""
    if not _is_its_turn(known):
        return new_integer(0)
    float64_at(known[SETTINGS])[LEARNING_RATE] = float_of(arguments[2])
    team, size = (integer_of(arguments[3]), integer_of(arguments[4])) if count > 3 else ALONE
    counts, value = int64_at(known[COUNTS]), stack_integers(1)
    if not _run(known, arguments[0], arguments[1], known[STATE], counts[UPDATES], value, team, size):
        return new_integer(0)
    counts[UPDATES] += 1
    return new_float(float64_at(address_of(value))[0])


@direct_object
def _gradients_directly(known, arguments, count):
    """(x, target, gradient, team, size): what `stepper` gives without an optimiser."""
    gradient = arguments[2]
    is_room = is_array(known, gradient, known[DTYPE], 1, WRITABLE) and length_of(gradient, 0) == known[SIZE]
    if not is_room or not _is_its_turn(known):
        return new_integer(0)
    team, size = (integer_of(arguments[3]), integer_of(arguments[4])) if count > 3 else ALONE
    value = stack_integers(1)
    if not _run(known, arguments[0], arguments[1], data_of(gradient), 0, value, team, size):
        return new_integer(0)
    return new_float(float64_at(address_of(value))[0])


def stepper(
    network: Network,
    optimizer: Optimizer | None,
    parameters: np.ndarray,
    state: np.ndarray | None,
    counts: np.ndarray,
    workspace: Workspace,
) -> Callable[..., float] | None:
    """A function (x, target, learning_rate), without an optimiser (x, target, gradient): kernels/README.md."""
    row_flops = step_flops(network.widths, 1)
    target = TARGETS.index(LOSSES[network.loss].target)
    if not reads_arrays() or workspace.parts or (target == 2 and network.widths[-1] == 1):
        return None
    code = GRADIENT_CODE if optimizer is None else OPTIMIZERS[optimizer.name].code
    settings = settings_of(optimizer or Optimizer(), code, network.dtype)
    entry, tables = way_of(workspace)
    function, _ = (_gradients_directly if optimizer is None else _step_directly).bound(
        id(network.dtype), network.dtype.itemsize, id(_INTEGER), network.widths[0], network.widths[-1], target,
        workspace.rows, workspace.most_members, row_flops, entry.address(network.dtype),
        address(parameters), parameters.size, 0 if state is None else address(state),
        0 if state is None else len(state), address(settings),
        address(counts), *tables,
        keeps=(parameters, state, settings, counts, workspace),
    )  # fmt: skip
    if workspace.most_members == 1 or not is_shared(row_flops * workspace.rows):
        return function
    crew = workspace.crew_for(workspace.rows)
    return lambda *batch: function(*batch, *crew())
