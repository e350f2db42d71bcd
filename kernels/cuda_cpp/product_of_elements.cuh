// gemm(...) for whatever multiplies, and the epilogue that keeps what it is given.
#pragma once
#if HOPPER
#include "gemm_hopper.cuh"
#else
#include "gemm.cuh"
#endif

// C itself, float32, to out[rows, columns].
struct Keep {
    float* out;
    int columns;

    struct Fetched {};

    __device__ __forceinline__ void begin(int, int) {}
    __device__ __forceinline__ Fetched fetch(int, int, int) { return {}; }
    __device__ __forceinline__ void finish(int row, int column, int count, float (&values)[4], const Fetched&) {
        store(out + static_cast<long long>(row) * columns + column, values, count);
    }
    __device__ __forceinline__ void end(char*, Tile) {}
};
