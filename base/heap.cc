#include "base/heap.h"

#include <malloc.h>

#include <cstddef>

namespace tidegate {
namespace {

constexpr int kArenas = 4;
constexpr size_t kMuchFreeBytes = 8 << 20;

}  // namespace

void BoundHeapArenas() { mallopt(M_ARENA_MAX, kArenas); }

void ReturnFreeHeap() {
  if (mallinfo2().fordblks >= kMuchFreeBytes) malloc_trim(0);
}

}  // namespace tidegate
