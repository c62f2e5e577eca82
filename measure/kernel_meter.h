// How fast this machine's memory and processors get through the weights of a model: the engine's
// kernels over matrices and columns of the model's shapes and encodings, in memory that holds no
// model. Thread-compatible; its pool has threads of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/aligned_buffer.h"
#include "engine/kernels/kernels.h"
#include "engine/thread_pool.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

class KernelMeter {
 public:
  // threads: 0 is one per core. `pack` must outlive the meter.
  KernelMeter(const PackIndex* pack, Precision precision, uint32_t threads);

  // Makes the memory: as much as the model has, at most 256 MiB. RESOURCE_EXHAUSTED.
  absl::Status Prepare();

  // Bytes of weights per second, over `seconds` or somewhat more. REQUIRES: Prepare().
  double StaticRate(double seconds);
  double UnitRate(UnitKind kind, double seconds);
  // Input units until `stop` is set; bytes in all.
  uint64_t AddUnits(const std::atomic<bool>& stop);

  uint32_t threads() const { return pool_.thread_count(); }
  std::string_view kernels() const { return kernels_.name; }

 private:
  // Multiplies with every static matrix of a token once; bytes of weights.
  uint64_t MultiplyAll();
  void Multiply(const MatrixView& matrix);
  // Adds the units of one layer's MLP, of one expert where there are several; bytes of weights.
  uint64_t AddLayer(UnitKind kind);
  // `bytes` of the memory, behind what was used last. REQUIRES: bytes <= memory_.size().
  const uint8_t* Take(uint64_t bytes);

  const PackIndex& pack_;
  const Kernels& kernels_;
  ThreadPool pool_;
  AlignedBuffer memory_;
  uint64_t memory_bytes_ = 0, next_ = 0;
  std::vector<float> x_, y_, sums_, coefficients_;
  std::vector<const uint8_t*> columns_;
};

}  // namespace tidegate
