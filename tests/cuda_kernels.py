"""What the assembler says of every kernel of kernels/cuda_cpp, against the committed table cuda_kernels.json.

`python tests/cuda_kernels.py` writes the table anew; read what changed before committing it. The table is a budget:
another release of NVRTC may use fewer registers, never more.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from fastmlp.kernels.cuda_cpp import compile as compilation
from fastmlp.kernels.cuda_cpp.registry import PROGRAMS

TABLE = Path(__file__).with_name("cuda_kernels.json")

FACTS = ("registers", "shared", "stack", "spilled")
"""Registers a thread; bytes of shared memory a block; bytes of stack a thread; bytes of spills, both ways."""


def weigh(program, architecture):
    """{kernel: its FACTS} of one program, and its machine code."""
    image, log = compilation.compiled(program, architecture)
    found = {}
    for kernel, said in re.findall(r"Compiling entry function '(\w+)'(.*?)Compile time", log, re.DOTALL):
        stack, stored, loaded = map(
            int, re.search(r"(\d+) bytes stack\D+(\d+) bytes spill\D+(\d+) bytes", said).groups()
        )
        (registers,) = map(int, re.findall(r"Used (\d+) registers", said))
        shared = program.shared_bytes + sum(map(int, re.findall(r"(\d+) bytes smem", said)))
        found[kernel] = dict(zip(FACTS, (registers, shared, stack, stored + loaded), strict=True))
    return found, image


def disassembler():
    """Where nvdisasm is, or None."""
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError:
        return shutil.which("nvdisasm")
    return find_nvidia_binary_utility("nvdisasm") or shutil.which("nvdisasm")


def opcodes(image, folder):
    """The names of all instructions in a cubin."""
    path = folder / "kernel.cubin"
    path.write_bytes(image)
    listing = subprocess.run([disassembler(), "-c", path], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?(\w+)", listing, re.MULTILINE))


if __name__ == "__main__":
    table = {
        program.name: {architecture: weigh(program, architecture)[0] for architecture in program.architectures}
        for program in PROGRAMS
    }
    text = json.dumps(table, indent=1)
    kernels = re.sub(r"\{[^{}]+\}", lambda facts: re.sub(r"\s+", " ", facts[0]), text)  # a line each
    TABLE.write_text(kernels + "\n")
