#include "engine/lora_product.h"

namespace tidegate {
namespace {

constexpr size_t kLoraRowGranule = 8;  // rows of A per thread come in these
constexpr size_t kLoraOutputGranule =
    64;  // outputs: whole cache lines, and as add_columns wants them

}  // namespace

void LoraProduct::Add(const LoraFactors& factors, const float* x, uint32_t tokens, bool many,
                      Precision precision, float* y) {
  const size_t rank = factors.rank;
  if (rank == 0) return;
  inner_.resize(tokens * rank);
  columns_.clear();
  for (size_t k = 0; k < rank; ++k) {
    columns_.push_back(reinterpret_cast<const uint8_t*>(factors.b.data() + k * factors.out));
  }
  const MatrixView a = factors.A();
  if (many) {
    matmul_.Pack(precision,
                 {.data = x, .stride = factors.in, .depth = factors.in, .tokens = tokens});
    matmul_.MultiplyRows(a, inner_.data());
    matmul_.Pack(precision,
                 {.data = inner_.data(), .stride = rank, .depth = rank, .tokens = tokens});
    matmul_.AddColumns({.encoding = UnitEncoding::kF32,
                        .columns = columns_.data(),
                        .count = rank,
                        .elements = factors.out},
                       y);
    return;
  }
  const Kernels& kernels = BestKernels(precision);
  pool_->For(rank, kLoraRowGranule, rank * a.row_bytes,
             [&](size_t begin, size_t end) { kernels.mat_vec(a, begin, end, x, inner_.data()); });
  pool_->For(factors.out, kLoraOutputGranule, rank * factors.out * sizeof(float),
             [&](size_t begin, size_t end) {
               kernels.add_columns(UnitEncoding::kF32, columns_.data(), inner_.data(), rank,
                                   factors.out, begin, end, y);
             });
}

}  // namespace tidegate
