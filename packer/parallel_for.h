// Runs independent pieces of work on a few threads; the caller's thread is one of them. Any thread.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"

namespace tidegate {

// Threads that packing uses: at most kMaxPackThreads, no more than the machine has.
inline constexpr uint32_t kMaxPackThreads = 16;
uint32_t PackThreads();

// Calls work(i) for every i in [0, count), each once, in no fixed order. Stops handing out pieces
// after an error and returns that of the smallest index that failed.
absl::Status ParallelFor(uint64_t count, uint32_t threads,
                         const std::function<absl::Status(uint64_t)>& work);

// How work on many rows is shared out: pieces of kPieceRows, the last may be shorter.
inline constexpr uint64_t kPieceRows = 256;
inline uint64_t RowPieces(uint64_t rows) { return (rows + kPieceRows - 1) / kPieceRows; }

}  // namespace tidegate
