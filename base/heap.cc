#include "base/heap.h"

#include <malloc.h>

namespace tidegate {
namespace {

constexpr int kArenas = 4;

}  // namespace

void BoundHeapArenas() { mallopt(M_ARENA_MAX, kArenas); }

void ReturnFreeHeap(size_t least_bytes) {
  if (mallinfo2().fordblks >= least_bytes) malloc_trim(0);
}

}  // namespace tidegate
