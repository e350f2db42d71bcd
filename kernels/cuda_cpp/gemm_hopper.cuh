// C = A B on Hopper's tensor cores (wgmma), one 128 x 256 tile of C a block, with the same epilogues as gemm.cuh.
//
// Three warpgroups. One thread of the last keeps the copy engine busy: 64 steps of the sum are a stage of 48 KiB, four of
// which lie in shared memory. The others multiply, each 64 x 256 of C in 128 registers a thread, which the last one
// hands them. A stage is full when its bytes have come, and empty again when all eight warps are done reading it: a
// warp waits for its products of one stage only when those of the next are under way.
//
// One step of 16 reads 2 x (2 + 8) KiB of shared memory in the 256 cycles that 128 x 256 x 16 multiply-adds take, and a
// stage is written in 1024: 128 bytes a cycle, all that there is. A tile half as wide would need a quarter more.
//
// Operands come as maps, see layers.py: `Operand::data` is their address. Boxes are 64 elements, 128 bytes, wide and
// swizzled by the copy engine. Deep: 128 rows by 64 steps, 16 KiB. Across: 64 steps by 64 rows or columns of C, 8 KiB.
#pragma once
#include "hopper.cuh"
#include "rows.cuh"

constexpr int WIDE = 64;  // elements of a box's row, and steps of a stage
constexpr int DEEP_BOX = EDGE * WIDE * 2, ACROSS_BOX = WIDE * WIDE * 2;
constexpr int A_BYTES = EDGE * WIDE * 2, STAGE_BYTES = A_BYTES + TILE_COLUMNS * WIDE * 2, STAGES = 4;
constexpr int ATOM = 8 * 128;  // bytes of 8 rows of a box
constexpr int ALIGNED = 1024;  // atoms begin on multiples of their size
constexpr int COPIERS = 128, PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
constexpr int SHARED_BYTES = ALIGNED + STAGES * STAGE_BYTES + 2 * STAGES * sizeof(Barrier);
static_assert(EDGE * TILE_COLUMNS * 4 + SCRATCH_BYTES <= STAGES * STAGE_BYTES, "the finished tile takes the stages' place");
static_assert(BLOCK_THREADS == THREADS + COPIERS && PARTS == 1);

template <bool A_ACROSS, bool B_ACROSS>
__device__ __forceinline__ void multiply_group(float (&c)[128], unsigned long long a, unsigned long long b, int adds) {
#if ELEMENT == 0
    multiply_group_bfloat16<A_ACROSS, B_ACROSS>(c, a, b, adds);
#else
    multiply_group_float16<A_ACROSS, B_ACROSS>(c, a, b, adds);
#endif
}

// The `edge` rows or columns of C from `first` on, steps k .. k + 63, to shared memory in boxes.
template <bool DEEP>
__device__ __forceinline__ void copy_stage(char* to, const TensorMap* map, int first, int edge, int k, Barrier* full) {
    for (int at = 0; at < edge; at += DEEP ? EDGE : WIDE) {
        if (DEEP) copy_box(to + at / EDGE * DEEP_BOX, map, k, first + at, full);
        else copy_box(to + at / WIDE * ACROSS_BOX, map, first + at, k, full);
    }
}

// Where rows or columns `first` on, a multiple of 64, and steps `step` .. + 15 of a stage's operand lie.
template <bool DEEP>
__device__ __forceinline__ unsigned long long place_of(const char* operand, int first, int step) {
    if (DEEP) return descriptor(operand + first * 128 + step * 2, 16, ATOM);
    return descriptor(operand + first / WIDE * ACROSS_BOX + step * 128, ACROSS_BOX, ATOM);
}

template <bool A_DEEP, bool B_DEEP, class Epilogue>
__device__ __forceinline__ void gemm(char* memory, const Operand& a, const Operand& b, int begin, int end,
                                     Epilogue& epilogue) {
    char* shared = memory + (-shared_address(memory) & (ALIGNED - 1));
    Barrier* full = reinterpret_cast<Barrier*>(shared + STAGES * STAGE_BYTES);
    Barrier* empty = full + STAGES;
    const auto* a_map = reinterpret_cast<const TensorMap*>(a.data);
    const auto* b_map = reinterpret_cast<const TensorMap*>(b.data);
    const Tile tile = tile_of(blockIdx.x, a.count, b.count);
    const int stages = (end - begin + WIDE - 1) / WIDE, thread = threadIdx.x;

    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, THREADS / 32);
        }
        barriers_made();
    }
    __syncthreads();

    if (thread >= THREADS) {
        give_registers<PRODUCER_REGISTERS>();
        if (thread == THREADS) {
            acquire_map(a_map);
            acquire_map(b_map);
            for (int stage = 0; stage < stages; ++stage) {
                const int slot = stage % STAGES, turn = stage / STAGES;
                barrier_wait(empty + slot, (turn & 1) ^ 1);
                barrier_expect(full + slot, STAGE_BYTES);
                char* to = shared + slot * STAGE_BYTES;
                copy_stage<A_DEEP>(to, a_map, tile.row, EDGE, begin + stage * WIDE, full + slot);
                copy_stage<B_DEEP>(to + A_BYTES, b_map, tile.column, TILE_COLUMNS, begin + stage * WIDE, full + slot);
            }
        }
    } else {
        take_registers<CONSUMER_REGISTERS>();
        const int group = thread / 128, lane = thread % 32;
        float c[128];
        for (int stage = 0; stage < stages; ++stage) {
            const int slot = stage % STAGES;
            barrier_wait(full + slot, stage / STAGES & 1);
            const char* at = shared + slot * STAGE_BYTES;
            products_begin();
#pragma unroll
            for (int step = 0; step < WIDE; step += STEP)
                multiply_group<!A_DEEP, !B_DEEP>(c, place_of<A_DEEP>(at, group * 64, step),
                                                 place_of<B_DEEP>(at + A_BYTES, 0, step), stage > 0 || step > 0);
            products_commit();
            products_wait<1>();
            if (stage > 0 && lane == 0) barrier_arrive(empty + (stage - 1) % STAGES);
        }
        products_wait<0>();
        if (stages == 0)
            for (float& each : c) each = 0.0f;
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
        });
    }
}
