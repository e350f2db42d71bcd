"""The CUDA backend's performance kernels in CUDA C++: their sources, which shapes each takes, how they become cubins.

Imports neither CuPy nor Numba and touches no driver: all of it is tested on machines without a GPU.
"""
