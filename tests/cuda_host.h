// A CUDA grid on a processor: compiles a .cu of kernels/cuda_cpp as C++ and runs each of its threads as a fibre.
//
// A thread runs until it has to wait; a barrier lets none through before all have come, and the order in which threads go
// on is the caller's choice: 0, each warp and each block as far ahead of the later ones as it can; 1, of the earlier ones;
// 2 and more, by chance. A read that needs a barrier and has none sees what it should not in one order or another.
// Shared memory begins as NaN. Blocks of a cluster run together, clusters one after the other. `cuda_host.py` builds it.
#pragma once
#define FASTMLP_DEVICE_CUH

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block at a time then: dynamic_shared() is for clusters too
#define __constant__ static
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(bytes) alignas(bytes)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace host {
constexpr size_t STACK = 128 << 10, GUARD = 4096;
enum Wait { RUNS, BLOCK, WARP, CLUSTER, POLLS, ENDED };  // POLLS: looks again when something has changed

struct Copy {
    void* to;
    const void* from;
    int bytes;
};

struct Thread {
    ucontext_t context;
    unsigned index, lane;
    struct Block* block;
    struct Warp* warp;
    Wait waits = RUNS;
    unsigned mask = 0;  // of the lanes it waits for, and named barrier or 0 where it waits for the block
    int barrier = 0, expected = 0;
    unsigned exchanges = 0;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
    std::vector<std::function<void()>> products;  // of a warpgroup, not yet waited for
    std::vector<std::vector<std::function<void()>>> product_groups;
};
struct Warp {
    unsigned char slots[2][32][64];
    std::vector<Thread*> lanes;
};
struct Block {
    dim3 index;
    int rank;
    std::unique_ptr<unsigned char[]> memory;
    unsigned char* shared;
    size_t shared_bytes;
    std::vector<Warp> warps;
    std::vector<Thread*> threads;
    unsigned seen = 0;  // of `changes`, by those who poll
};

inline Thread* now;
inline ucontext_t scheduler;
inline dim3 grid, block_shape;
inline std::vector<Block>* cluster;
inline std::function<void()>* body;
inline unsigned changes;  // of what threads poll for

inline void wait(Wait what) {
    now->waits = what;
    swapcontext(&now->context, &scheduler);
}
inline void enter() {
    (*body)();
    now->waits = ENDED;
    swapcontext(&now->context, &scheduler);
}

// Each lets those go on who wait with all others that they wait for, and says whether there were any.
inline bool release(const std::vector<Thread*>& all) {
    for (Thread* each : all) each->waits = RUNS;
    return !all.empty();
}
inline bool release_warp(Warp& warp) {
    bool any = false;
    for (Thread* first : warp.lanes) {
        std::vector<Thread*> here;
        for (Thread* each : warp.lanes)
            if (first->mask >> each->lane & 1 && each->waits == WARP && each->mask == first->mask) here.push_back(each);
        if (first->waits == WARP && int(here.size()) == __builtin_popcount(first->mask)) any |= release(here);
    }
    return any;
}
inline bool release_block(Block& block) {
    bool any = false;
    for (int barrier = 0; barrier < 16; ++barrier) {
        std::vector<Thread*> here;
        for (Thread* each : block.threads)
            if (each->waits == BLOCK && each->barrier == barrier) here.push_back(each);
        if (!here.empty() && int(here.size()) == here[0]->expected) any |= release(here);
    }
    if (block.seen == changes) return any;
    block.seen = changes;
    std::vector<Thread*> polling;
    for (Thread* each : block.threads)
        if (each->waits == POLLS) polling.push_back(each);
    return release(polling) || any;
}
inline bool release_cluster(std::vector<Thread>& threads) {
    std::vector<Thread*> here;
    for (Thread& each : threads)
        if (each.waits == CLUSTER) here.push_back(&each);
    return here.size() == threads.size() && release(here);
}

inline bool run_if_it_can(Thread* thread) {
    if (thread->waits != RUNS) return false;
    now = thread;
    swapcontext(&scheduler, &thread->context);
    return true;
}

// The items first to last, or last to first.
template <typename T>
std::vector<T*> in_turn(std::vector<T>& items, bool backwards) {
    std::vector<T*> found;
    for (T& each : items) found.push_back(&each);
    if (backwards) std::reverse(found.begin(), found.end());
    return found;
}

// Each warp runs as far ahead of the others as it can, and each block of the others.
inline bool run_ahead(bool backwards) {
    bool any = false;
    for (Block* block : in_turn(*cluster, backwards))
        for (bool moved = true; moved;) {
            moved = false;
            for (Warp* warp : in_turn(block->warps, backwards))
                for (bool ran = true; ran; moved |= ran) {
                    ran = false;
                    for (Thread** each : in_turn(warp->lanes, backwards)) ran |= run_if_it_can(*each);
                    ran |= release_warp(*warp);
                }
            moved |= release_block(*block);
            any |= moved;
        }
    return any;
}

// Each thread runs to where it has to wait, in an order of chance.
inline bool run_shuffled(std::vector<Thread>& threads, std::mt19937& random) {
    std::vector<Thread*> turns = in_turn(threads, false);
    std::shuffle(turns.begin(), turns.end(), random);
    bool any = false;
    for (Thread* each : turns) any |= run_if_it_can(each);
    for (Block& block : *cluster) {
        for (Warp& warp : block.warps) any |= release_warp(warp);
        any |= release_block(block);
    }
    return any;
}

// Runs the grid; 0, or why it could not be: 1 threads wait for others for ever, 2 a block wrote beyond its shared memory.
inline int run(std::function<void()> kernel, dim3 grid_, dim3 block_, size_t shared_bytes, unsigned blocks_together,
               unsigned order) {
    grid = grid_, block_shape = block_, body = &kernel;
    const unsigned size = block_.x * block_.y * block_.z, total = grid.x * grid.y * grid.z;
    const size_t stacks_size = STACK * size * blocks_together;
    auto* stacks = static_cast<char*>(
        mmap(nullptr, stacks_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    std::mt19937 random(order);
    int status = 0;
    for (unsigned first = 0; first < total && status == 0; first += blocks_together) {
        std::vector<Block> blocks(blocks_together);
        std::vector<Thread> threads(size * blocks_together);
        cluster = &blocks;
        for (unsigned b = 0; b < blocks_together; ++b) {
            Block& block = blocks[b];
            const unsigned flat = first + b;
            block.index = {flat % grid.x, flat / grid.x % grid.y, flat / grid.x / grid.y};
            block.rank = b;
            block.memory.reset(new unsigned char[shared_bytes + 2 * GUARD]);
            std::memset(block.memory.get(), 0xff, shared_bytes + 2 * GUARD);
            block.shared = block.memory.get() + (-reinterpret_cast<uintptr_t>(block.memory.get()) & 1023);
            block.shared_bytes = shared_bytes;
            block.warps.resize((size + 31) / 32);
            for (unsigned t = 0; t < size; ++t) {
                Thread& thread = threads[b * size + t];
                thread.index = t, thread.lane = t % 32, thread.block = &block, thread.warp = &block.warps[t / 32];
                thread.warp->lanes.push_back(&thread);
                block.threads.push_back(&thread);
                getcontext(&thread.context);
                thread.context.uc_stack = {stacks + STACK * (b * size + t), 0, STACK};
                thread.context.uc_link = nullptr;
                makecontext(&thread.context, enter, 0);
            }
        }
        auto is_left = [](const Thread& each) { return each.waits != ENDED; };
        while (status == 0 && std::any_of(threads.begin(), threads.end(), is_left)) {
            const bool moved = order > 1 ? run_shuffled(threads, random) : run_ahead(order == 1);
            if (!release_cluster(threads) && !moved) status = 1;
        }
        for (Block& block : blocks)
            for (size_t i = shared_bytes; i < shared_bytes + GUARD - 1024 && status == 0; ++i)
                if (block.shared[i] != 0xff) status = 2;
    }
    munmap(stacks, stacks_size);
    return status;
}

inline void barrier(int name, int expected) {
    now->barrier = name, now->expected = expected;
    wait(BLOCK);
}
inline void warp_barrier(unsigned mask) {
    now->mask = mask;
    wait(WARP);
}

// What the given lane of the warp gives for `mine`, all lanes of the mask together; at most 64 bytes.
template <typename T>
inline T from_lane(unsigned mask, const T& mine, unsigned lane) {
    static_assert(sizeof(T) <= 64);
    auto& slots = now->warp->slots[now->exchanges++ % 2];
    std::memcpy(slots[now->lane], &mine, sizeof(T));
    warp_barrier(mask);
    T given;
    std::memcpy(&given, slots[lane], sizeof(T));
    return given;
}

// What every lane of a whole warp gives for `mine`: for the fragments of a matrix instruction.
template <typename T>
inline void from_all_lanes(const T& mine, T (&given)[32]) {
    static_assert(sizeof(T) <= 64);
    auto& slots = now->warp->slots[now->exchanges++ % 2];
    std::memcpy(slots[now->lane], &mine, sizeof(T));
    warp_barrier(0xffffffff);
    for (int lane = 0; lane < 32; ++lane) std::memcpy(&given[lane], slots[lane], sizeof(T));
}

template <typename... A, size_t... I>
std::function<void()> call_of(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    auto values = std::make_tuple(*static_cast<A*>(args[I])...);
    return [=] { std::apply(kernel, values); };
}
// The kernel with arguments as cuLaunchKernel takes them.
template <typename... A>
std::function<void()> call_of(void (*kernel)(A...), void** args) {
    return call_of(kernel, args, std::index_sequence_for<A...>());
}
}  // namespace host

struct ThreadIndex {
    operator dim3() const {
        const unsigned t = host::now->index;
        return {t % host::block_shape.x, t / host::block_shape.x % host::block_shape.y,
                t / host::block_shape.x / host::block_shape.y};
    }
};
#define threadIdx (static_cast<dim3>(ThreadIndex()))
#define blockIdx (host::now->block->index)
#define blockDim (host::block_shape)
#define gridDim (host::grid)

inline void __syncthreads() { host::barrier(0, host::now->block->threads.size()); }
inline void __syncwarp(unsigned mask = 0xffffffff) { host::warp_barrier(mask); }
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return host::from_lane(mask, value, (host::now->lane & ~(width - 1)) + (lane & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int = 32) {
    return host::from_lane(mask, value, host::now->lane ^ bits);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int lanes, int width = 32) {
    const unsigned lane = host::now->lane;
    return host::from_lane(mask, value, lane % width + lanes < unsigned(width) ? lane + lanes : lane);
}

template <typename To, typename From>
To reinterpreted(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
inline unsigned __float_as_uint(float x) { return reinterpreted<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return reinterpreted<float>(x); }
inline int __float_as_int(float x) { return reinterpreted<int>(x); }
inline float __int_as_float(int x) { return reinterpreted<float>(x); }
template <typename T>
T __ldg(const T* place) {
    return *place;
}
using std::max;
using std::min;

// device.cuh
inline unsigned char* dynamic_shared() { return host::now->block->shared; }
template <int BYTES>
void copy_async(void* shared, const void* global) {
    host::now->open.push_back({shared, global, BYTES});
}
inline void copy_commit() { host::now->groups.push_back(std::move(host::now->open)), host::now->open.clear(); }
template <int PENDING>
void copy_wait() {  // only now is anything copied
    auto& groups = host::now->groups;
    while (groups.size() > PENDING) {
        for (const host::Copy& each : groups.front()) std::memcpy(each.to, each.from, each.bytes);
        groups.erase(groups.begin());
    }
}
inline void prefetch(const void*) {}
inline void prefetch_run(const void*, int) {}
inline int cluster_rank() { return host::now->block->rank; }
inline void cluster_sync() { host::wait(host::CLUSTER); }
template <typename T>
T* remote(T* shared, int rank) {
    auto place = reinterpret_cast<unsigned char*>(shared) - host::now->block->shared;
    return reinterpret_cast<T*>((*host::cluster)[rank].shared + place);
}
#define __CUDA_ARCH__ 900

#include "cuda_host_tensor.h"
#include "cuda_host_hopper.h"

// The kernel for ctypes: grid, block, bytes of shared memory, blocks of a cluster, order of the threads, arguments.
#define HOST_KERNEL(kernel)                                                                                       \
    extern "C" int host_##kernel(const unsigned* grid, const unsigned* block, size_t shared_bytes, unsigned blocks, \
                                 unsigned order, void** args) {                                                   \
        return host::run(host::call_of(kernel, args), {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},    \
                         shared_bytes, blocks, order);                                                            \
    }
