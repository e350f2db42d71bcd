// C = A B on Hopper's tensor cores (wgmma), with the same epilogues as gemm.cuh. A block has one tile of C, of 128 rows and
// HOPPER columns: 256, which spare shared memory, or 128, for products with few tiles and for operands in parts.
//
// Two warpgroups multiply, each 64 rows of the tile in HOPPER / 2 registers a thread. One thread of COPIERS more keeps the
// copy engine busy: 64 steps of the sum are a stage, of which 192 KiB are held. A stage is full when its bytes have come,
// and empty again when all eight warps are done reading it: a warp waits for its products of one stage only when those of
// the next are under way. Narrow tiles leave room for two blocks, with half the stages each, so that one multiplies while
// the other begins or ends; else the copiers are a warpgroup and hand their registers to the others.
//
// One step of 16 on 128 x 256 reads 2 x (2 + 8) KiB of shared memory in the 256 cycles that its multiply-adds take, and
// 12 KiB are written: 128 bytes a cycle, all that there is. On 128 x 128 it is 160 bytes a cycle: four fifths of full rate.
//
// Blocks with wide tiles are clusters of two, one tile above the other: each brings half of the columns that both need, to
// both, which takes 32 KiB a stage from the L2 cache instead of 48. So a stage is empty when both blocks' warps are done
// with it, and no block ends before its last stages are: until then the other says so to it, and has copies from it coming.
//
// In parts, the products of a step are summed from zero, smallest first, and then added in float32: tensor cores cut off
// what they add. While one warpgroup adds, the other's products run. A part is read in several products, so it is 128
// bytes a cycle with three parts, 139 with two.
//
// What the epilogue reads, most of all an optimiser, the copying thread asks of memory meanwhile, in the last ASKING stages,
// so that it comes from the L2 cache.
//
// Operands come as `Matrix`: see tensor_maps.py. Boxes are 64 elements, 128 bytes, wide and swizzled by the copy engine.
// Deep: 128 rows by 64 steps, 16 KiB. Across: 64 steps by 64 rows or columns of C, 8 KiB.
#pragma once
#include "hopper.cuh"
#include "parts.cuh"
#include "rows.cuh"

// What `Operand::data` is the address of: the parts as the copy engine sees them, and as threads do.
struct Matrix {
    TensorMap map;
    const Element* elements;
};

constexpr int WIDE = 64;  // elements of a box's row, and steps of a stage
constexpr int DEEP_BOX = EDGE * WIDE * 2, ACROSS_BOX = WIDE * WIDE * 2;
constexpr int A_BYTES = EDGE * WIDE * 2, B_BYTES = TILE_COLUMNS * WIDE * 2;  // of a part
constexpr int STAGE_BYTES = PARTS * (A_BYTES + B_BYTES), STAGES = (192 << 10) / BLOCKS / STAGE_BYTES;
constexpr int ATOM = 8 * 128;  // bytes of 8 rows of a box
constexpr int ALIGNED = 1024;  // atoms begin on multiples of their size
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;  // where a block has a multiprocessor to itself
constexpr int SHARED_BYTES = ALIGNED + STAGES * STAGE_BYTES + 2 * STAGES * sizeof(Barrier);
constexpr int SUMS = TILE_COLUMNS / 2;  // of a thread
constexpr int ASKING = 16;  // stages: 16,000 cycles for at most 384 KiB, about what a multiprocessor has of memory's bandwidth
static_assert(EDGE * TILE_COLUMNS * 4 + SCRATCH_BYTES <= STAGES * STAGE_BYTES, "the finished tile takes the stages' place");

__device__ __forceinline__ int block_of_cluster() { return CLUSTER == 1 ? 0 : cluster_rank(); }

// Says to all blocks of the cluster that this warp is done with a stage.
__device__ __forceinline__ void give_back(Barrier* empty, int lane) {
    if constexpr (CLUSTER > 1) {
        if (lane < CLUSTER) barrier_arrive_at(empty, lane);
    } else {
        if (lane == 0) barrier_arrive(empty);
    }
}

template <bool A_ACROSS, bool B_ACROSS>
__device__ __forceinline__ void multiply_group(float (&c)[SUMS], unsigned long long a, unsigned long long b, int adds) {
#if ELEMENT == 0
    multiply_group_bfloat16<A_ACROSS, B_ACROSS>(c, a, b, adds);
#else
    multiply_group_float16<A_ACROSS, B_ACROSS>(c, a, b, adds);
#endif
}

// The EDGES rows or columns of C from `first` on, steps k .. k + 63, to shared memory in boxes, part after part. SHARED: all
// blocks of the cluster need these, and each brings its share of the boxes to all.
template <bool DEEP, int EDGES, bool SHARED>
__device__ __forceinline__ void copy_stage(char* to, const TensorMap* map, int first, int k, Barrier* full) {
    constexpr int ROWS = DEEP ? EDGE : WIDE, BYTES = DEEP ? DEEP_BOX : ACROSS_BOX, BOXES = EDGES / ROWS;
    constexpr int SHARE = SHARED ? BOXES / CLUSTER : BOXES;
    const int begin = SHARED ? block_of_cluster() * SHARE : 0;
    for (int p = 0; p < PARTS; ++p)
        for (int box = begin; box < begin + SHARE; ++box) {
            char* place = to + (p * BOXES + box) * BYTES;
            const int edge = first + box * ROWS, inner = DEEP ? k : edge, outer = DEEP ? edge : k;
            if constexpr (SHARED && CLUSTER > 1) copy_box_to((1 << CLUSTER) - 1, place, map, inner, outer, p, full);
            else copy_box(place, map, inner, outer, p, full);
        }
}

// Where rows or columns `first` on, a multiple of 64, and steps `step` .. + 15 of a stage's operand lie.
template <bool DEEP>
__device__ __forceinline__ unsigned long long place_of(const char* operand, int first, int step) {
    if (DEEP) return descriptor(operand + first * 128 + step * 2, 16, ATOM);
    return descriptor(operand + first / WIDE * ACROSS_BOX + step * 128, ACROSS_BOX, ATOM);
}

// A warpgroup's 64 rows of the tile: its products of one stage, which lies at `as` and `bs`. They are under way then, and
// those before are done.
template <bool A_DEEP, bool B_DEEP>
__device__ __forceinline__ void multiply_stage(float (&c)[SUMS], const char* as, const char* bs, int group, int adds) {
    products_begin();
#pragma unroll
    for (int step = 0; step < WIDE; step += STEP)
        multiply_group<!A_DEEP, !B_DEEP>(c, place_of<A_DEEP>(as, group * 64, step), place_of<B_DEEP>(bs, 0, step),
                                         adds || step > 0);
    products_commit();
    products_wait<1>();
}

// The same in parts, done and added to `total`.
template <bool A_DEEP, bool B_DEEP>
__device__ __forceinline__ void multiply_parts(float (&total)[SUMS], const char* as, const char* bs, int group) {
    float c[SUMS];
#pragma unroll
    for (int step = 0; step < WIDE; step += STEP) {
        products_begin();
#pragma unroll
        for (int product = 0; product < PRODUCTS; ++product)
            multiply_group<!A_DEEP, !B_DEEP>(c, place_of<A_DEEP>(as + part_of_a(product) * A_BYTES, group * 64, step),
                                             place_of<B_DEEP>(bs + part_of_b(product) * B_BYTES, 0, step), product > 0);
        products_commit();
        products_wait<0>();
        settle(c);
#pragma unroll
        for (int i = 0; i < SUMS; ++i) total[i] += c[i];
    }
}

template <bool A_DEEP, bool B_DEEP, class Epilogue>
__device__ __forceinline__ void gemm(char* memory, const Operand& a, const Operand& b, int begin, int end,
                                     Epilogue& epilogue) {
    char* shared = memory + (-shared_address(memory) & (ALIGNED - 1));
    Barrier* full = reinterpret_cast<Barrier*>(shared + STAGES * STAGE_BYTES);
    Barrier* empty = full + STAGES;
    const auto* a_matrix = reinterpret_cast<const Matrix*>(a.data);
    const auto* b_matrix = reinterpret_cast<const Matrix*>(b.data);
    const Tile tile = tile_of(blockIdx.x, a.count, b.count);
    const int stages = (end - begin + WIDE - 1) / WIDE, thread = threadIdx.x;

    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, CLUSTER * THREADS / 32);
        }
        barriers_made();
    }
    if (CLUSTER > 1) cluster_sync();
    else __syncthreads();

    if (thread >= THREADS) {
        if (BLOCKS == 1) give_registers<PRODUCER_REGISTERS>();
        if (thread == THREADS) {
            acquire_map(&a_matrix->map);
            acquire_map(&b_matrix->map);
            for (int stage = 0; stage < stages; ++stage) {
                const int slot = stage % STAGES, turn = stage / STAGES;
                barrier_wait(empty + slot, (turn & 1) ^ 1);
                barrier_expect(full + slot, STAGE_BYTES);
                char* to = shared + slot * STAGE_BYTES;
                const int k = begin + stage * WIDE;
                copy_stage<A_DEEP, EDGE, false>(to, &a_matrix->map, tile.row, k, full + slot);
                copy_stage<B_DEEP, TILE_COLUMNS, true>(to + PARTS * A_BYTES, &b_matrix->map, tile.column, k, full + slot);

                const int asking = min(stages, ASKING), asked = stage - (stages - asking);
                for (int row = EDGE * max(asked, 0) / asking; row < EDGE * (asked + 1) / asking; ++row)
                    if (tile.row + row < a.count)
                        epilogue.ask(tile.row + row, tile.column, min(b.count - tile.column, TILE_COLUMNS));
            }
            for (int stage = max(stages - STAGES, 0); CLUSTER > 1 && stage < stages; ++stage)
                barrier_wait(empty + stage % STAGES, stage / STAGES & 1);
        }
    } else {
        if (BLOCKS == 1) take_registers<CONSUMER_REGISTERS>();
        const int group = thread / 128, lane = thread % 32;
        float c[SUMS];
        if (PARTS > 1 || stages == 0)
            for (float& each : c) each = 0.0f;
        for (int stage = 0; stage < stages; ++stage) {
            const int slot = stage % STAGES;
            barrier_wait(full + slot, stage / STAGES & 1);
            const char* as = shared + slot * STAGE_BYTES;
            const char* bs = as + PARTS * A_BYTES;
            if (PARTS > 1) multiply_parts<A_DEEP, B_DEEP>(c, as, bs, group);
            else multiply_stage<A_DEEP, B_DEEP>(c, as, bs, group, stage > 0);
            const int done = PARTS > 1 ? stage : stage - 1;
            if (done >= 0) give_back(empty + done % STAGES, lane);
        }
        products_wait<0>();
        settle(c);
        if (PARTS == 1 && stages > 0) give_back(empty + (stages - 1) % STAGES, lane);
        some_threads(1, THREADS);  // both warpgroups have read the last stage, whose place the tile takes

        float* resting = reinterpret_cast<float*>(shared);
#pragma unroll
        for (int j = 0; j < TILE_COLUMNS / 8; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = thread / 32 * 16 + half * 8 + lane / 4, column = j * 8 + lane % 4 * 2;
                *reinterpret_cast<Two*>(resting + resting_place(row, column)) =
                    Two{{c[4 * j + 2 * half], c[4 * j + 2 * half + 1]}};
            }
        epilogue_threads();
        char* scratch = shared + EDGE * TILE_COLUMNS * 4;
        for_rows(scratch, tile, a.count, b.count, epilogue, [&](int row, int column, float (&values)[4]) {
            load(values, resting + resting_place(row, column), 4);
            mend<A_DEEP, B_DEEP>(values, {a_matrix->elements, a.stride, a.part, a.count},
                                 {b_matrix->elements, b.stride, b.part, b.count}, tile.row + row, tile.column + column,
                                 begin, end);
        });
    }
}
