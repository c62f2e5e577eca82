#include "engine/matmul.h"

#include <cstdlib>

#include "base/check.h"

namespace tidegate {
namespace {

// Outputs that a thread takes at a time: whole panels (and so quantisation groups and cache lines),
// a good part of a millisecond of a long prompt.
constexpr size_t kPiece = 128;

}  // namespace

void Matmul::Free::operator()(void* memory) const { std::free(memory); }

void Matmul::Pack(Precision precision, const TokensView& x) {
  kernels_ = &BestMatmul(precision);
  tokens_ = x.tokens;
  const size_t bytes = kernels_->packed_bytes(x.tokens, x.depth);
  if (bytes > capacity_bytes_) {
    capacity_bytes_ = (bytes + kPackAlign - 1) / kPackAlign * kPackAlign;
    packed_.reset();
    packed_.reset(std::aligned_alloc(kPackAlign, capacity_bytes_));
    CHECK(packed_ != nullptr);
  }
  pool_->For(x.tokens, kTokenTile, bytes,
             [&](size_t begin, size_t end) { kernels_->pack(x, begin, end, packed_.get()); });
}

void Matmul::MultiplyRows(const MatrixView& w, float* y) {
  pool_->ForPieces(w.rows, kPiece, w.rows * w.row_bytes * tokens_, [&](size_t begin, size_t end) {
    kernels_->multiply_rows(w, begin, end, packed_.get(), tokens_, y, w.rows);
  });
}

void Matmul::AddColumns(const ColumnsView& w, float* y) {
  pool_->ForPieces(w.elements, kPiece, w.count * w.elements * tokens_,
                   [&](size_t begin, size_t end) {
                     kernels_->add_columns(w, begin, end, packed_.get(), tokens_, y, w.elements);
                   });
}

}  // namespace tidegate
