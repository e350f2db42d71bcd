// gemm(...) for whatever multiplies, and the epilogue that keeps what it is given.
#pragma once
#if HOPPER
#include "gemm_hopper.cuh"
#else
#include "gemm.cuh"
#endif

// What a kernel of products is launched in.
#if HOPPER == 256
#define IN_CLUSTERS __cluster_dims__(CLUSTER, 1, 1)
#else
#define IN_CLUSTERS
#endif

// C itself, float32, to out[rows, columns].
struct Keep {
    float* out;
    int columns;

    struct Fetched {};

    __device__ __forceinline__ void begin(int, int) {}
    __device__ __forceinline__ void ask(int, int, int) const {}
    __device__ __forceinline__ Fetched fetch(int, int, int) { return {}; }
    __device__ __forceinline__ void finish(int row, int column, int count, float (&values)[4], const Fetched&) {
        store(out + static_cast<long long>(row) * columns + column, values, count);
    }
    __device__ __forceinline__ void end(char*, Tile) {}
};
