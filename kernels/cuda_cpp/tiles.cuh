// How operands lie in shared memory, 128 rows or columns of C by DEPTH steps of the sum, and how a warp reads them.
//
// An operand is stored either along the sum ("deep": x and w.T in x @ w and dz @ w.T are read row by row) or across it.
//   deep    128 rows of 64 bytes, 4 chunks of 16: chunk c of row r lies at place c ^ (r / 2) % 4, so that the 8 rows of
//           one matrix load, 64 bytes apart, touch all 32 banks
//   across  DEPTH rows of 256 bytes, 16 chunks: chunk c of row k lies at place c ^ k % 8, for 8 rows 256 bytes apart
// Copies to shared memory write whole rows of chunks, and so meet no conflict in either. tests/test_cuda_tiles.py holds both.
#pragma once
#include "operands.cuh"

constexpr int EDGE = 128;                         // rows and columns of C a block computes
constexpr int DEPTH = 32;                         // steps of the sum in one stage
constexpr int STEP = 16;                          // of them, in one instruction
constexpr int TILE_BYTES = EDGE * DEPTH * 2;      // one part of one operand
constexpr int OPERAND_BYTES = PARTS * TILE_BYTES;

// One operand in global memory: `count` rows or columns of C; neighbouring rows, as stored, lie `stride` elements apart
// and its parts `part` elements; both multiples of PER_CHUNK, and data 16-byte aligned.
struct Operand {
    const Element* data;
    long long stride, part;
    int count;
};

template <bool DEEP>
__device__ __forceinline__ int place(int row, int chunk) {
    return DEEP ? row * 64 + ((chunk ^ (row >> 1)) & 3) * 16 : row * 256 + (chunk ^ (row & 7)) * 16;
}

// Starts this thread's share of the copies of one stage: steps `k` on, up to `end`, of rows or columns `first` on.
template <bool DEEP>
__device__ __forceinline__ void copy_tile(char* tile, const Operand& operand, int first, int k, int end) {
    constexpr int CHUNKS = DEEP ? DEPTH / PER_CHUNK : EDGE / PER_CHUNK;
#pragma unroll
    for (int i = 0; i < TILE_BYTES / 16 / THREADS; ++i) {
        const int row = (threadIdx.x + i * THREADS) / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const int outer = (DEEP ? first : k) + row, inner = (DEEP ? k : first) + chunk * PER_CHUNK;
        const int left = (DEEP ? end : operand.count) - inner;
        const int there = outer < (DEEP ? operand.count : end) ? max(0, min(left, PER_CHUNK)) : 0;
        const long long from = there > 0 ? outer * operand.stride + inner : 0;
#pragma unroll
        for (int p = 0; p < PARTS; ++p)
            copy_part(tile + p * TILE_BYTES + place<DEEP>(row, chunk), operand.data + from + p * operand.part, there * 2);
    }
}

// A's fragment for rows `row` .. + 15 of the tile and steps `step` .. + 15.
template <bool DEEP>
__device__ __forceinline__ void load_a(unsigned (&a)[4], const char* tile, int row, int step, int lane) {
    if (DEEP) load_matrices(a, tile + place<true>(row + lane % 16, step / PER_CHUNK + lane / 16));
    else load_matrices_transposed(a, tile + place<false>(step + lane / 16 * 8 + lane % 8, row / PER_CHUNK + lane / 8 % 2));
}

// B's fragments for columns `column` .. + 15 of the tile, two of 8 each, and steps `step` .. + 15.
template <bool DEEP>
__device__ __forceinline__ void load_b(unsigned (&b)[2][2], const char* tile, int column, int step, int lane) {
    unsigned four[4];
    if (DEEP) load_matrices(four, tile + place<true>(column + lane / 16 * 8 + lane % 8, step / PER_CHUNK + lane / 8 % 2));
    else load_matrices_transposed(four, tile + place<false>(step + lane % 16, column / PER_CHUNK + lane / 16));
    for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = four[i];
}

__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if ELEMENT == 0
    multiply_bfloat16(c, a, b);
#else
    multiply_float16(c, a, b);
#endif
}
