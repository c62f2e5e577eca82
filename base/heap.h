// How the heap of a daemon behaves over days: bounded arenas, and memory given back after a peak.
// Thread-safe.
#pragma once

#include <cstddef>

namespace tidegate {

// Few arenas instead of eight a core, so that what many threads freed is used again. Call at the
// start of main().
void BoundHeapArenas();

// Gives free memory back to the kernel where there is as much of it. Takes a millisecond or so.
inline constexpr size_t kMuchFreeHeap = 8 << 20;
void ReturnFreeHeap(size_t least_bytes = kMuchFreeHeap);

}  // namespace tidegate
