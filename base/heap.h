// How the heap of a daemon behaves over days: bounded arenas, and memory given back after a peak.
// Thread-safe.
#pragma once

namespace tidegate {

// Few arenas instead of eight a core, so that what many threads freed is used again. Call at the
// start of main().
void BoundHeapArenas();

// Gives free memory back to the kernel where there is much of it. Takes a millisecond or so.
void ReturnFreeHeap();

}  // namespace tidegate
