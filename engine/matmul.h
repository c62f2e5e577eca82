// Many tokens times encoded weights, on the pool's threads: kernels/matmul.h with the memory for
// packed tokens. Tokens are packed once and then multiplied with any number of matrices. Owned and
// called by one thread.
#pragma once

#include <memory>

#include "engine/kernels/matmul.h"
#include "engine/thread_pool.h"

namespace tidegate {

class Matmul {
 public:
  // `pool` is not owned.
  explicit Matmul(ThreadPool* pool) : pool_(pool) {}

  // What the products below multiply, until the next call. x is read here only.
  void Pack(Precision precision, const TokensView& x);

  // y [tokens, w.rows] = x . w. REQUIRES: x has the depth w.columns.
  void MultiplyRows(const MatrixView& w, float* y);

  // y [tokens, w.elements] += x . w. REQUIRES: x has the depth w.count.
  void AddColumns(const ColumnsView& w, float* y);

 private:
  struct Free {
    void operator()(void* memory) const;
  };

  ThreadPool* const pool_;
  const MatmulKernels* kernels_ = nullptr;
  size_t tokens_ = 0;
  size_t capacity_bytes_ = 0;
  std::unique_ptr<void, Free> packed_;
};

}  // namespace tidegate
