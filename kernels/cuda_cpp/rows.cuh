// One 128 x 128 tile, row by row: a warp takes every WARPS-th row, each lane the same four neighbouring columns of all.
//
// THREADS do this, the first of BLOCK_THREADS; a block's tile of C is TILE_COLUMNS wide, one or two of these side by side.
#pragma once
#if HOPPER
#include "hopper.cuh"
#endif
#include "tiles.cuh"

constexpr int WARPS = THREADS / 32;
constexpr int SCRATCH_BYTES = WARPS * EDGE * 4;
constexpr int AHEAD = HOPPER && BLOCKS > 1 ? 2 : 4;  // rows whose operands are fetched before the first of them is finished

// The rows of tiles in C that blocks with neighbouring numbers share: what they read stays in L2.
constexpr int GROUP = 8;
static_assert(GROUP % CLUSTER == 0);

struct Tile {
    int row, column;  // of its first element in C
};

// Clusters are whole: where rows of tiles are odd, the last ones' second block has a tile beyond C.
__device__ __forceinline__ Tile tile_of(int block, int rows, int columns) {
    const int down = (rows + EDGE * CLUSTER - 1) / (EDGE * CLUSTER) * CLUSTER;
    const int across = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const int group = block / (GROUP * across), top = group * GROUP, high = min(down - top, GROUP);
    const int within = block - top * across;
    return {(top + within % high) * EDGE, within / high * TILE_COLUMNS};
}

// Where an element of the finished tile lies in shared memory, in floats: neighbouring rows 8 banks apart.
__device__ __forceinline__ int resting_place(int row, int column) {
    return (column / EDGE * EDGE + row) * EDGE + (column % EDGE ^ (row & 3) << 3);
}

struct alignas(8) Two {
    float at[2];
};

// The barrier of the threads that work on rows.
__device__ __forceinline__ void epilogue_threads() {
#if HOPPER
    some_threads(1, THREADS);
#else
    __syncthreads();
#endif
}

// One side of the tile, 128 columns; see for_rows.
template <class Epilogue, class Value>
__device__ __forceinline__ void for_side(char* shared, Tile tile, int side, int rows, int columns, Epilogue& epilogue,
                                         const Value& value) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int column = tile.column + 4 * lane, count = max(0, min(columns - column, 4));
    const int high = min(rows - tile.row, EDGE);
    epilogue.begin(column, count);
    if (count > 0) {
        for (int first = warp; first < high; first += AHEAD * WARPS) {
            typename Epilogue::Fetched fetched[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i)
                if (first + i * WARPS < high) fetched[i] = epilogue.fetch(tile.row + first + i * WARPS, column, count);
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const int row = first + i * WARPS;
                if (row < high) {
                    float values[4];
                    value(row, side + 4 * lane, values);
                    epilogue.finish(tile.row + row, column, count, values, fetched[i]);
                }
            }
        }
    }
    epilogue_threads();
    epilogue.end(shared, tile);
}

// epilogue.finish(...) for every element of the tile of C[rows, columns]; value(row, column, values) gives four of the
// tile's. An epilogue has
//   begin(column, count)                        this thread's columns, of which `count` of 4 are there, maybe none
//   ask(row, column, count)                     HOPPER: the L2 cache for what fetch needs of so many columns
//   fetch(row, column, count)                   what it needs of memory
//   finish(row, column, count, values, fetched)
//   end(shared, tile)                           all threads, when all rows are done; SCRATCH_BYTES at `shared` are free
template <class Epilogue, class Value>
__device__ __forceinline__ void for_rows(char* shared, Tile tile, int rows, int columns, Epilogue& epilogue,
                                         const Value& value) {
    if (tile.row >= rows) return;
    for (int side = 0; side < TILE_COLUMNS && tile.column + side < columns; side += EDGE)
        for_side(shared, {tile.row, tile.column + side}, side, rows, columns, epilogue, value);
}

// partials[tile row][column] = the sum over the tile's rows of what each thread has summed: warp by warp, in order.
__device__ __forceinline__ void store_column_sums(char* shared, Tile tile, int columns, const float (&sums)[4], float* partials) {
    float* held = reinterpret_cast<float*>(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = 0; i < 4; ++i) held[warp * EDGE + lane + 32 * i] = sums[i];
    epilogue_threads();
    const int thread = threadIdx.x;
    if (thread < EDGE && tile.column + thread < columns) {
        float sum = 0.0f;
        for (int w = 0; w < WARPS; ++w) sum += held[w * EDGE + thread / 4 + thread % 4 * 32];
        partials[static_cast<long long>(tile.row / EDGE) * columns + tile.column + thread] = sum;
    }
}
