// The instructions of hopper.cuh on a processor, for cuda_host.h.
//
// Harsh where the hardware leaves room: a box is copied at once, a warpgroup's products are made only when they are waited
// for, from what shared memory holds by then, so a stage that is given back too early is seen. A map, a descriptor or a
// place that the hardware would not take, and what reaches a block that has ended, end the process.
#pragma once
#define FASTMLP_HOPPER_CUH

struct alignas(64) TensorMap {  // what tests put in the place of the driver's
    const unsigned short* base;
    long long inner, outer, stride;  // elements; of a matrix, and from row to row
    long long box_inner, box_outer;
    long long parts, part;  // matrices, and elements from one to the next
    unsigned char rest[64];
};
static_assert(sizeof(TensorMap) == 128);

using Barrier = unsigned long long;

namespace host {
struct Phases {
    unsigned expected : 12, pending : 12, parity : 1;
    int bytes;
};
static_assert(sizeof(Phases) == sizeof(Barrier));

inline Phases& phases(Barrier* barrier) {
    demand_shared(barrier, 8);
    return *reinterpret_cast<Phases*>(barrier);
}
inline Phases& phases(Barrier* barrier, int rank) {
    demand_shared(barrier, 8);
    const auto& threads = (*cluster)[rank].threads;
    demand(std::any_of(threads.begin(), threads.end(), [](Thread* each) { return each->waits != ENDED; }),
           "an access to the memory of a block that has ended");
    return *reinterpret_cast<Phases*>(remote(barrier, rank));
}
inline void turn_if_done(Phases& it) {
    ++changes;
    if (it.pending > 0 || it.bytes != 0) return;
    it.pending = it.expected;
    it.parity ^= 1;
}
inline unsigned char* swizzled(size_t place) {
    demand(place < now->block->shared_bytes, "a descriptor that leads out of shared memory");
    return now->block->shared + (place ^ (place >> 7 & 7) << 4);
}

struct Described {
    size_t start, leading, stride;

    explicit Described(unsigned long long bits)
        : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4), stride((bits >> 32 & 0x3fff) << 4) {
        demand(bits >> 62 == 1, "a descriptor that does not say 128-byte swizzling");
    }
    unsigned short element(bool across, int edge, int step) const {
        const size_t place = across ? edge / 64 * leading + edge % 64 * 2 + step / 8 * stride + step % 8 * 128
                                    : edge / 8 * stride + edge % 8 * 128 + step * 2;
        return *reinterpret_cast<unsigned short*>(swizzled(start + place));
    }
};
}  // namespace host

inline unsigned shared_address(const void* pointer) {
    return static_cast<const unsigned char*>(pointer) - host::now->block->shared;
}

inline void barrier_init(Barrier* barrier, int arrivals) {
    host::phases(barrier) = {unsigned(arrivals), unsigned(arrivals), 0, 0};
}
inline void barriers_made() {}
inline void barrier_arrive_at(Barrier* barrier, int rank) {
    auto& it = host::phases(barrier, rank);
    host::demand(it.pending > 0, "more arrivals at a barrier than it expects");
    --it.pending;
    host::turn_if_done(it);
}
inline void barrier_arrive(Barrier* barrier) { barrier_arrive_at(barrier, host::now->block->rank); }
inline void barrier_expect(Barrier* barrier, int bytes) {
    host::phases(barrier).bytes += bytes;
    barrier_arrive(barrier);
}
inline void barrier_wait(Barrier* barrier, int parity) {
    while (int(host::phases(barrier).parity) == parity) host::wait(host::POLLS);
}

inline void acquire_map(const TensorMap*) {}

inline void copy_box_to(unsigned short blocks, void* to, const TensorMap* map, int inner, int outer, int part,
                        Barrier* barrier) {
    host::demand(map->box_inner == 64 && map->box_outer <= 256, "a box that is not 128 bytes wide");
    host::demand(part >= 0 && part < map->parts && map->part % 8 == 0, "a part that is not there");
    host::demand(map->stride % 8 == 0 && reinterpret_cast<uintptr_t>(map->base) % 16 == 0, "a misaligned matrix");
    const unsigned place = shared_address(to);
    host::demand(place % 1024 == 0, "a box that does not begin with an atom");
    for (int rank = 0; rank < 16; ++rank) {
        if (!(blocks >> rank & 1)) continue;
        for (int row = 0; row < map->box_outer; ++row)
            for (int i = 0; i < 64; ++i) {
                const long long x = inner + i, y = outer + row;
                const bool there = x < map->inner && y < map->outer;
                auto* target = reinterpret_cast<unsigned short*>(host::swizzled(place + row * 128 + i * 2));
                *remote(target, rank) = there ? map->base[part * map->part + y * map->stride + x] : 0;
            }
        auto& it = host::phases(barrier, rank);
        it.bytes -= int(map->box_outer * 128);
        host::turn_if_done(it);
    }
}
inline void copy_box(void* to, const TensorMap* map, int inner, int outer, int part, Barrier* barrier) {
    copy_box_to(1 << host::now->block->rank, to, map, inner, outer, part, barrier);
}

inline void some_threads(int name, int threads) { host::barrier(name, threads); }
template <int REGISTERS>
void give_registers() {}
template <int REGISTERS>
void take_registers() {}

inline void products_begin() { __syncwarp(); }  // `.aligned`: all of a warp are here
inline void products_commit() {
    host::now->product_groups.push_back(std::move(host::now->products));
    host::now->products.clear();
}
template <int PENDING>
void products_wait() {
    __syncwarp();
    auto& groups = host::now->product_groups;
    while (groups.size() > PENDING) {
        for (auto& product : groups.front()) product();
        groups.erase(groups.begin());
    }
}

template <int COUNT>
void settle(float (&)[COUNT]) {}

inline unsigned long long descriptor(const void* start, int leading, int stride) {
    return (shared_address(start) & 0x3ffff) >> 4 | static_cast<unsigned long long>(leading >> 4) << 16 |
           static_cast<unsigned long long>(stride >> 4) << 32 | 1ULL << 62;
}

template <bool A_ACROSS, bool B_ACROSS, int SUMS, typename Widen>
void multiply_in_group(float (&c)[SUMS], unsigned long long a, unsigned long long b, int adds, Widen widen) {
    static_assert(SUMS == 64 || SUMS == 128);
    float* mine = c;
    const int thread = host::now->index % 128, first = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
    host::now->products.push_back([=] {
        const host::Described x(a), y(b);
        double rows[2][16];
        for (int half = 0; half < 2; ++half)
            for (int k = 0; k < 16; ++k) rows[half][k] = widen(x.element(A_ACROSS, first + 8 * half, k));
        for (int j = 0; j < SUMS / 4; ++j)
            for (int e = 0; e < 2; ++e) {
                double ys[16];
                for (int k = 0; k < 16; ++k) ys[k] = widen(y.element(B_ACROSS, 8 * j + column + e, k));
                for (int half = 0; half < 2; ++half) {
                    float& sum = mine[4 * j + 2 * half + e];
                    double exact = adds ? sum : 0.0;
                    for (int k = 0; k < 16; ++k) exact += rows[half][k] * ys[k];
                    sum = host::cut(exact);
                }
            }
    });
}
template <bool A_ACROSS, bool B_ACROSS, int SUMS>
void multiply_group_bfloat16(float (&c)[SUMS], unsigned long long a, unsigned long long b, int adds) {
    multiply_in_group<A_ACROSS, B_ACROSS>(
        c, a, b, adds, [](unsigned short bits) { return __uint_as_float(unsigned(bits) << 16); });
}
template <bool A_ACROSS, bool B_ACROSS, int SUMS>
void multiply_group_float16(float (&c)[SUMS], unsigned long long a, unsigned long long b, int adds) {
    multiply_in_group<A_ACROSS, B_ACROSS>(c, a, b, adds, widen_float16);
}
