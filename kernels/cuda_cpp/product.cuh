// C = A B from shared memory by one block: tiles of 1, 2 or 4 rows x 4 columns in registers, and where there are fewer
// tiles than threads, lanes that share a tile's sum and add up their parts in a fixed order.
//
// Every pitch is a multiple of 4 floats, every matrix ends in zeros up to multiples of 4, so that all loads take 16
// bytes; a pitch is an odd multiple, so that 8 neighbouring rows lie in different banks.
#pragma once

namespace product {
constexpr int whole(int size) { return (size + 3) / 4 * 4; }
constexpr int pitch(int size) { return whole(size) % 8 == 0 ? whole(size) + 4 : whole(size); }

// How the operands lie: A[i][s] B[s][j] for a layer's outputs, A[i][s] B[j][s] for the gradient of its inputs,
// A[s][i] B[s][j] for that of its weights.
enum Form { OUTPUTS, INPUT_GRADIENT, WEIGHT_GRADIENT };

struct Tile {
    int rows, lanes;
};

// About the cycles of an SM for C[rows][columns] with sums of `length`. A turn of the loop over the sum takes the longest
// of the arithmetic (4 warps' multiply-adds a cycle), the loads (a warp's row of A takes one cycle, its 4 x 4 of B eight)
// and one warp's own instructions with what it waits for a load. To be measured.
constexpr long cost(Form form, Tile tile, int rows, int columns, int length, int threads) {
    const long tiles = long((rows + tile.rows - 1) / tile.rows) * (whole(columns) / 4);
    const long passes = (tiles * tile.lanes + threads - 1) / threads;
    const long busy = (tiles * tile.lanes < threads ? tiles * tile.lanes : threads);
    const long warps = (busy + 31) / 32, depth = form == WEIGHT_GRADIENT ? 1 : 4;
    const long turns = (length + depth * tile.lanes - 1) / (depth * tile.lanes);
    const long arithmetic = warps * tile.rows * depth, loads = warps * (form == WEIGHT_GRADIENT ? 3 : tile.rows + 8);
    const long alone = tile.rows * depth * 4 + (form == WEIGHT_GRADIENT ? 2 + 8 : tile.rows + 4 + 20);
    long turn = arithmetic > loads ? arithmetic : loads, levels = 0;
    turn = turn > alone ? turn : alone;
    for (int lanes = tile.lanes; lanes > 1; lanes /= 2) ++levels;
    return passes * (turns * turn + levels * (warps * tile.rows * 4 + 30) + 40);
}

constexpr Tile best(Form form, int rows, int columns, int length, int threads) {
    Tile found{1, 1};
    for (int tile_rows = 1; tile_rows <= 4; tile_rows *= 2)
        for (int lanes = 1; lanes <= 32; lanes *= 2) {
            const Tile tile{tile_rows, lanes};
            if (form == WEIGHT_GRADIENT && tile_rows == 2) continue;
            if (cost(form, tile, rows, columns, length, threads) < cost(form, found, rows, columns, length, threads))
                found = tile;
        }
    return found;
}

__device__ __forceinline__ float4 load4(const float* place) { return *reinterpret_cast<const float4*>(place); }

__device__ __forceinline__ void multiply_add(float (&c)[4], float a, const float4& b) {
    c[0] += a * b.x, c[1] += a * b.y, c[2] += a * b.z, c[3] += a * b.w;
}
__device__ __forceinline__ float dot(float c, const float4& a, const float4& b) {
    return c + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

// One tile's sums over s = 4 lane, 4 (lane + LANES), ... (over s = lane, lane + LANES, ... for WEIGHT_GRADIENT).
// Its columns are column, column + step, ...
template <Form FORM, int TALL, int LANES>
__device__ __forceinline__ void accumulate(float (&c)[TALL][4], const float* a, int a_pitch, const float* b, int b_pitch,
                                  int length, int row, int column, int step, int lane) {
    if constexpr (FORM == OUTPUTS) {
#pragma unroll 2
        for (int s = 4 * lane; s < length; s += 4 * LANES) {
            float4 left[TALL];
#pragma unroll
            for (int i = 0; i < TALL; ++i) left[i] = load4(a + (row + i) * a_pitch + s);
            const float4 b0 = load4(b + s * b_pitch + column), b1 = load4(b + (s + 1) * b_pitch + column);
            const float4 b2 = load4(b + (s + 2) * b_pitch + column), b3 = load4(b + (s + 3) * b_pitch + column);
#pragma unroll
            for (int i = 0; i < TALL; ++i) {
                multiply_add(c[i], left[i].x, b0);
                multiply_add(c[i], left[i].y, b1);
                multiply_add(c[i], left[i].z, b2);
                multiply_add(c[i], left[i].w, b3);
            }
        }
    } else if constexpr (FORM == INPUT_GRADIENT) {
#pragma unroll 2
        for (int s = 4 * lane; s < length; s += 4 * LANES) {
            float4 left[TALL];
#pragma unroll
            for (int i = 0; i < TALL; ++i) left[i] = load4(a + (row + i) * a_pitch + s);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float4 right = load4(b + (column + j * step) * b_pitch + s);
#pragma unroll
                for (int i = 0; i < TALL; ++i) c[i][j] = dot(c[i][j], left[i], right);
            }
        }
    } else {
#pragma unroll 4
        for (int s = lane; s < length; s += LANES) {
            const float4 right = load4(b + s * b_pitch + column);
            if constexpr (TALL == 4) {
                const float4 left = load4(a + s * a_pitch + row);
                multiply_add(c[0], left.x, right);
                multiply_add(c[1], left.y, right);
                multiply_add(c[2], left.z, right);
                multiply_add(c[3], left.w, right);
            } else {
                multiply_add(c[0], a[s * a_pitch + row], right);
            }
        }
    }
}

// finish(value, row, column) is what is stored at c[row][column] for each element of C[SIZE_I][SIZE_J] and, of the
// matrix in shared memory, of the zeros around it. All threads of the block come here.
template <Form FORM, int SIZE_I, int SIZE_J, int LENGTH, int TEAM, typename Finish>
__device__ __forceinline__ void multiply(const float* a, int a_pitch, const float* b, int b_pitch, float* c, int c_pitch,
                                Finish finish) {
    constexpr Tile TILE = best(FORM, SIZE_I, SIZE_J, LENGTH, TEAM);
    constexpr int LANES = TILE.lanes, TALL = TILE.rows, ACROSS = whole(SIZE_J) / 4;
    constexpr int TILES = (SIZE_I + TALL - 1) / TALL * ACROSS, PASSES = (TILES * LANES + TEAM - 1) / TEAM;
    const int lane = threadIdx.x % LANES;
#pragma unroll 1
    for (int pass = 0; pass < PASSES; ++pass) {
        const int tile = (pass * TEAM + threadIdx.x) / LANES;
        const int row = tile / ACROSS * TALL, across = tile % ACROSS;
        const int step = FORM == INPUT_GRADIENT ? ACROSS : 1, column = FORM == INPUT_GRADIENT ? across : 4 * across;
        float sums[TALL][4] = {};
        if (tile < TILES)
            accumulate<FORM, TALL, LANES>(sums, a, a_pitch, b, b_pitch, FORM == WEIGHT_GRADIENT ? LENGTH : whole(LENGTH),
                                          row, column, step, lane);
        if constexpr (LANES > 1) {
#pragma unroll
            for (int bits = 1; bits < LANES; bits *= 2)
#pragma unroll
                for (int i = 0; i < TALL; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j) sums[i][j] += __shfl_xor_sync(0xffffffff, sums[i][j], bits);
        }
        if (tile >= TILES) continue;
        if constexpr (LANES >= 4) {  // a column a lane, and where there are more, a row each four
            const int j = lane % 4;
#pragma unroll
            for (int i = 0; i < TALL; ++i) {
                const float value = j == 0 ? sums[i][0] : j == 1 ? sums[i][1] : j == 2 ? sums[i][2] : sums[i][3];
                const int at = column + j * step;
                if (lane / 4 == i % (LANES / 4)) c[(row + i) * c_pitch + at] = finish(value, row + i, at);
            }
        } else if (lane == 0) {
#pragma unroll
            for (int i = 0; i < TALL; ++i) {
                float v[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) v[j] = finish(sums[i][j], row + i, column + j * step);
                float* place = c + (row + i) * c_pitch + column;
                if constexpr (FORM == INPUT_GRADIENT) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) place[j * step] = v[j];
                } else {
                    *reinterpret_cast<float4*>(place) = make_float4(v[0], v[1], v[2], v[3]);
                }
            }
        }
    }
}

// c[j] = the sum of b[s][j] over s, for each column of B.
template <int SIZE_J, int LENGTH, int TEAM>
__device__ __forceinline__ void column_sums(const float* b, int b_pitch, float* c) {
    constexpr int ACROSS = whole(SIZE_J) / 4;
    constexpr int LANES = ACROSS * 32 <= TEAM ? 32 : ACROSS * 8 <= TEAM ? 8 : 4;
    constexpr int PASSES = (ACROSS * LANES + TEAM - 1) / TEAM;
    const int lane = threadIdx.x % LANES;
#pragma unroll 1
    for (int pass = 0; pass < PASSES; ++pass) {
        const int across = (pass * TEAM + threadIdx.x) / LANES;
        float sums[4] = {};
        if (across < ACROSS) {
#pragma unroll 4
            for (int s = lane; s < LENGTH; s += LANES) multiply_add(sums, 1.0f, load4(b + s * b_pitch + 4 * across));
        }
#pragma unroll
        for (int bits = 1; bits < LANES; bits *= 2)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[j] += __shfl_xor_sync(0xffffffff, sums[j], bits);
        if (lane == 0 && across < ACROSS)
            *reinterpret_cast<float4*>(c + 4 * across) = make_float4(sums[0], sums[1], sums[2], sums[3]);
    }
}
}  // namespace product
