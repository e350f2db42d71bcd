// Products of matrices of bfloat16 in shared memory, all warps of a block together: each a few tiles of 16 x 16.
//
// Rows lie an odd number of 16-byte chunks apart, so that the 8 rows of a matrix load touch all 32 banks, and so do the
// pairs that an epilogue writes. Matrices are whole tiles, with zeros at their ends.
#pragma once
#include "tensor.cuh"

namespace warp_tiles {
using Element = unsigned short;
constexpr int EDGE = 16, FLOATS = 8;  // of a tile; and of its elements, in each of a warp's lanes
constexpr int UNROLLED = 2;           // steps of a sum, so that loads run ahead of products

constexpr int ceil_div(int size, int step) { return (size + step - 1) / step; }
constexpr int padded(int size) { return ceil_div(size, EDGE) * EDGE; }
constexpr int pitch(int size) { return padded(size) + 8; }

// Warps down and across a product, and tiles down and across of each.
struct Grid {
    int down, across, tall, wide;
};

// The grid with the least work for a warp: a tile's product takes as long as loading one of its operands.
constexpr Grid grid(int rows, int columns, int warps) {
    Grid best{};
    int least = 1 << 30;
    for (int down = 1; down <= warps; down *= 2) {
        const Grid each{down, warps / down, ceil_div(rows, down), ceil_div(columns, warps / down)};
        const int work = each.tall * each.wide + each.tall + each.wide;
        if (work < least) least = work, best = each;
    }
    return best;
}

// A product of HIGH x LONG tiles, of which each of SHARERS blocks computes a share of the columns.
template <int HIGH, int LONG, int SHARERS, int WARPS>
struct Product {
    static constexpr int SHARE = ceil_div(LONG, SHARERS);
    static constexpr Grid G = grid(HIGH, SHARE, WARPS);
    static constexpr bool ALL_ROWS = G.tall * G.down == HIGH;
    static constexpr bool ALL_COLUMNS = G.wide * G.across == SHARE && SHARE * SHARERS == LONG;
    using Sums = float[G.tall][G.wide][2][4];  // each tile two of 16 x 8, as the instruction has them

    int row, column, end;  // this warp's first tiles, and where the block's columns end

    __device__ __forceinline__ explicit Product(int rank) {
        const int warp = threadIdx.x / 32;
        row = warp / G.across * G.tall;
        column = rank * SHARE + warp % G.across * G.wide;
        end = SHARERS == 1 ? LONG : min(LONG, (rank + 1) * SHARE);
    }

    // Whether none of the warp's tiles is there.
    __device__ __forceinline__ bool idle() const {
        return (!ALL_ROWS && row >= HIGH) || (!ALL_COLUMNS && column >= end);
    }

    // sums += A B over STEPS tiles along the sum. A[row][step] is stored in that order, TURNED as [step][row]; and so is
    // B[step][column]. In the place of a tile that is not there the last one is multiplied, and nobody takes its sums.
    template <bool A_TURNED, bool B_TURNED, int STEPS>
    __device__ __forceinline__ void accumulate(Sums& sums, const Element* a, int a_pitch, const Element* b,
                                               int b_pitch) const {
        const int lane = threadIdx.x % 32, low = lane % 16, high = lane / 16 * 8;
        const int third = lane / 16 * 8 + lane % 8, second = lane / 8 % 2 * 8;
#pragma unroll UNROLLED
        for (int step = 0; step < STEPS; ++step) {
            unsigned as[G.tall][4], bs[G.wide][4];
#pragma unroll
            for (int i = 0; i < G.tall; ++i) {
                const int first = (ALL_ROWS ? row + i : min(row + i, HIGH - 1)) * EDGE;
                if (A_TURNED) load_matrices_transposed(as[i], a + (step * EDGE + third) * a_pitch + first + second);
                else load_matrices(as[i], a + (first + low) * a_pitch + step * EDGE + high);
            }
#pragma unroll
            for (int j = 0; j < G.wide; ++j) {
                const int first = (ALL_COLUMNS ? column + j : min(column + j, end - 1)) * EDGE;
                if (B_TURNED) load_matrices(bs[j], b + (first + third) * b_pitch + step * EDGE + second);
                else load_matrices_transposed(bs[j], b + (step * EDGE + low) * b_pitch + first + high);
            }
#pragma unroll
            for (int i = 0; i < G.tall; ++i)
#pragma unroll
                for (int j = 0; j < G.wide; ++j)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const unsigned pair[2] = {bs[j][2 * half], bs[j][2 * half + 1]};
                        multiply_bfloat16(sums[i][j][half], as[i], pair);
                    }
        }
    }

    // visit(place, row, column, pair) for each two neighbours in a row that this lane holds of tiles that are there. Of
    // `place`, the pair's number among the warp's tiles, the last bit is the lower half, the one before it the right half.
    template <typename Visit>
    __device__ __forceinline__ void each_pair(Sums& sums, Visit visit) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < G.tall; ++i)
#pragma unroll
            for (int j = 0; j < G.wide; ++j)
                if ((ALL_ROWS || row + i < HIGH) && has(j))
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        visit((i * G.wide + j) * 4 + e, (row + i) * EDGE + e % 2 * 8 + lane / 4, column_of(j, e / 2),
                              &sums[i][j][e / 2][e % 2 * 2]);
    }

    // visit(tile, half, column) for each two neighbouring columns of tiles that are there.
    template <typename Visit>
    __device__ __forceinline__ void each_column(Visit visit) const {
#pragma unroll
        for (int j = 0; j < G.wide; ++j)
            if (has(j))
#pragma unroll
                for (int half = 0; half < 2; ++half) visit(j, half, column_of(j, half));
    }

    __device__ __forceinline__ bool has(int tile) const { return ALL_COLUMNS || column + tile < end; }
    __device__ __forceinline__ int column_of(int tile, int half) const {
        return (column + tile) * EDGE + half * 8 + threadIdx.x % 4 * 2;
    }
};
}  // namespace warp_tiles
