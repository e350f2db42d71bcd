// C = A B on tensor cores (mma.sync, sm_80 on), one 128 x 128 tile of C a block, with what follows as an epilogue.
//
// Operands pass through STAGES stages of shared memory, filled by asynchronous copies that run ahead of the products by
// all stages but one. A warp holds 64 x 64 of C (64 x 32 where operands have parts, which leaves registers for the
// totals below), so that one step of 16 reads 4 KiB of shared memory for 64 x 64 x 16 multiply-adds: half of what an
// A100's shared memory can give while its tensor cores run at full rate; the copies take a quarter more.
//
// Tensor cores cut off what they add instead of rounding it. Where PARTS > 1, and so more than 16 bits' accuracy is asked
// for, the products of STEP steps are summed from zero, smallest first, and added to the total in float32.
//
// The finished tile goes through shared memory once, so that the epilogue sees rows: a warp takes one row at a time,
// each lane four neighbouring columns, the same ones in every row. All of an epilogue's accesses are then whole lines.
//
// Every element of C is summed in one order, whatever the grid: the same bits on every run.
#pragma once
#include "parts.cuh"
#include "rows.cuh"

constexpr int STAGES = PARTS == 1 ? 4 : PARTS == 2 ? 3 : 2;  // 64 or 96 KiB: two blocks a multiprocessor, or all of sm_86's
constexpr int STAGE_BYTES = 2 * OPERAND_BYTES;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
static_assert(EDGE * EDGE * 4 <= SHARED_BYTES, "the finished tile takes the stages' place");
constexpr int WARP_ROWS = 64, WARP_COLUMNS = EDGE * EDGE / WARPS / WARP_ROWS;
constexpr int A_TILES = WARP_ROWS / 16, B_TILES = WARP_COLUMNS / 8;

// epilogue.finish(...), as in rows.cuh, for every element of the tile of C, its sums over steps begin .. end - 1.
template <bool A_DEEP, bool B_DEEP, class Epilogue>
__device__ __forceinline__ void gemm(char* shared, const Operand& a, const Operand& b, int begin, int end, Epilogue& epilogue) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp % (EDGE / WARP_ROWS) * WARP_ROWS, warp_column = warp / (EDGE / WARP_ROWS) * WARP_COLUMNS;
    const Tile tile = tile_of(blockIdx.x, a.count, b.count);

    float c[A_TILES][B_TILES][4] = {}, total[A_TILES][B_TILES][4] = {};

    const int stages = (end - begin + DEPTH - 1) / DEPTH;
    const auto start_stage = [&](int stage) {
        if (stage < stages) {
            char* to = shared + stage % STAGES * STAGE_BYTES;
            copy_tile<A_DEEP>(to, a, tile.row, begin + stage * DEPTH, end);
            copy_tile<B_DEEP>(to + OPERAND_BYTES, b, tile.column, begin + stage * DEPTH, end);
        }
        copy_commit();  // an empty group keeps the count
    };
    for (int stage = 0; stage < STAGES - 1; ++stage) start_stage(stage);

    for (int stage = 0; stage < stages; ++stage) {
        copy_wait<STAGES - 2>();
        __syncthreads();  // this stage has come, for all threads, and the one before has been read
        start_stage(stage + STAGES - 1);
        const char* at = shared + stage % STAGES * STAGE_BYTES;
#pragma unroll
        for (int step = 0; step < DEPTH; step += STEP) {
            unsigned as[PARTS][A_TILES][4], bs[PARTS][B_TILES / 2][2][2];
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
#pragma unroll
                for (int i = 0; i < A_TILES; ++i)
                    load_a<A_DEEP>(as[p][i], at + p * TILE_BYTES, warp_row + i * 16, step, lane);
#pragma unroll
                for (int j = 0; j < B_TILES / 2; ++j)
                    load_b<B_DEEP>(bs[p][j], at + OPERAND_BYTES + p * TILE_BYTES, warp_column + j * 16, step, lane);
            }
#pragma unroll
            for (int product = 0; product < PRODUCTS; ++product)
#pragma unroll
                for (int i = 0; i < A_TILES; ++i)
#pragma unroll
                    for (int j = 0; j < B_TILES; ++j)
                        multiply(c[i][j], as[part_of_a(product)][i], bs[part_of_b(product)][j / 2][j % 2]);
            if (PARTS > 1) {
#pragma unroll
                for (int i = 0; i < A_TILES; ++i)
#pragma unroll
                    for (int j = 0; j < B_TILES; ++j)
#pragma unroll
                        for (int e = 0; e < 4; ++e) {
                            total[i][j][e] += c[i][j][e];
                            c[i][j][e] = 0.0f;
                        }
            }
        }
    }
    copy_wait<0>();
    __syncthreads();

    float* resting = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int i = 0; i < A_TILES; ++i)
#pragma unroll
        for (int j = 0; j < B_TILES; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_row + i * 16 + half * 8 + lane / 4, column = warp_column + j * 8 + lane % 4 * 2;
                const float(&from)[4] = PARTS > 1 ? total[i][j] : c[i][j];
                *reinterpret_cast<Two*>(resting + resting_place(row, column)) = Two{{from[half * 2], from[half * 2 + 1]}};
            }
    __syncthreads();

    for_rows(shared, tile, a.count, b.count, epilogue, [&](int row, int column, float (&values)[4]) {
        load(values, resting + resting_place(row, column), 4);
        mend<A_DEEP, B_DEEP>(values, a, b, tile.row + row, tile.column + column, begin, end);
    });
}
