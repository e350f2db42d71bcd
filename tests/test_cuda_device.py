"""The CUDA backend on a device, in full sizes; in Numba's simulator the same checks on tiny ones. Else skipped."""

import numba
import pytest

from fastmlp.bench.gpu.checks import checks
from fastmlp.bench.gpu.evaluation import Skipped
from fastmlp.kernels import backend as backends

REASON = backends.status()["cuda"]
SIMULATED = bool(numba.config.ENABLE_CUDASIM)

pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"backend 'cuda' cannot run here: {REASON}"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.mark.parametrize("name", checks())
def test_on_the_device(name):
    try:
        checks()[name](SIMULATED)
    except Skipped as reason:
        pytest.skip(str(reason))
