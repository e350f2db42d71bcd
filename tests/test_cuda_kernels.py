"""Every program of kernels/cuda_cpp compiled for each architecture, without a GPU: its weight, and its instructions.

A spill, a stack frame or more registers than the committed table allows would cost speed that no test here can time.
"""

import json

import cuda_kernels
import pytest

from fastmlp.kernels.cuda_cpp import compile as compilation
from fastmlp.kernels.cuda_cpp.registry import PROGRAMS

REASON = compilation.why_not()

pytestmark = pytest.mark.skipif(REASON is not None, reason=f"{REASON} `pip install 'fastmlp[ptx]'` does for tests")

CASES = [
    pytest.param(program, architecture, id=f"{program.name} {architecture}")
    for program in PROGRAMS
    for architecture in program.architectures
]

REGISTERS = 64 << 10
"""Of one block at most, on every device since sm_80."""


@pytest.fixture(scope="module")
def table():
    return json.loads(cuda_kernels.TABLE.read_text())


@pytest.fixture(scope="module")
def weighed():
    """Each program is compiled once."""
    found = {}

    def weigh(program, architecture):
        if (program, architecture) not in found:
            found[program, architecture] = cuda_kernels.weigh(program, architecture)
        return found[program, architecture]

    return weigh


def test_the_table_lists_just_what_there_is(table):
    assert {name: sorted(each) for name, each in table.items()} == {
        program.name: sorted(program.architectures) for program in PROGRAMS
    }


@pytest.mark.parametrize(("program", "architecture"), CASES)
def test_every_kernel_keeps_to_its_budget(program, architecture, weighed, table):
    facts, _ = weighed(program, architecture)
    assert set(facts) == set(program.kernels)
    for kernel, used in facts.items():
        budget = table[program.name][architecture][kernel]
        assert used["spilled"] == budget["spilled"] == 0, kernel
        assert used["stack"] == 0 or program.stack_because, kernel
        for fact in cuda_kernels.FACTS:
            assert used[fact] <= budget[fact], (kernel, fact)
        assert used["shared"] <= compilation.SHARED_LIMITS[architecture], kernel
        # Registers are given out by eights.
        assert -(-used["registers"] // 8) * 8 * program.threads <= REGISTERS, "a block would not start"


@pytest.mark.parametrize(("program", "architecture"), CASES)
def test_the_instructions_that_are_meant_are_there(program, architecture, weighed, tmp_path):
    meant = {opcode for each, opcode in program.instructions if each == architecture}
    if not meant:
        return
    if cuda_kernels.disassembler() is None:
        pytest.skip("needs NVIDIA's disassembler: pip install nvidia-cuda-nvdisasm")
    assert meant <= cuda_kernels.opcodes(weighed(program, architecture)[1], tmp_path)
