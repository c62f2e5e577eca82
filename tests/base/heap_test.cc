#include "base/heap.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

namespace tidegate::heap_test {

size_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  size_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

// The allocators of the sanitizers keep what was freed.
bool HeapIsGlibcs() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return false;
#elif defined(__has_feature)  // clang
  return !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
  return true;
#endif
}

TEST(Heap, FreeMemoryInTheMiddleGoesBackToTheKernel) {
  if (!HeapIsGlibcs()) GTEST_SKIP() << "another allocator";
  BoundHeapArenas();
  constexpr size_t kPiece = 16 << 10, kPieces = 4096;
  std::vector<std::unique_ptr<char[]>> pieces;
  for (size_t i = 0; i < kPieces; ++i) {
    pieces.push_back(std::make_unique<char[]>(kPiece));
    std::memset(pieces.back().get(), 1, kPiece);
  }
  const auto last = std::move(pieces.back());  // keeps free() itself from giving the rest back
  pieces.clear();
  const size_t before = ResidentBytes();
  ReturnFreeHeap();
  EXPECT_LT(ResidentBytes() + kPiece * kPieces / 2, before);
}

}  // namespace tidegate::heap_test
