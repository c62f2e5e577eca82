// Turns the MLP matrices of a layer into blocks of units: the transposition at the heart of
// packing.
//
// Sources are row-major and a unit needs columns, so a *pass* covers the columns of some blocks: it
// reads every row of the matrix once, keeps the floats of those columns, encodes them, and writes
// the finished blocks. The number of blocks in a pass follows from the memory allowed; ordinary
// models need one pass. Results do not depend on the number of threads, nor, without moments, on
// that of passes; with moments, columns of one pass correct one another (error_feedback.h). Owned
// by one thread; uses helpers inside.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/pack_format.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/pack/gguf_file.h"
#include "weightstore/pack/input_moments.h"

namespace tidegate {

// Sums over a matrix for its relative RMS error, sqrt(difference / source).
struct ErrorSums {
  double difference = 0;  // sum of (stored - source)^2
  double source = 0;      // sum of source^2
  double RelativeRms() const;
};

// What packing learns about one matrix of a kind, per unit (that is, per column).
struct ColumnRecord {
  std::vector<float> norms;  // Euclidean norm of the column as it is stored
  std::vector<ErrorSums> sums;
};

// Decoded rows [first, first + count) of a matrix, out [count, columns]; called from several
// threads.
using RowReader = std::function<absl::Status(const GgufTensor& matrix, uint64_t first,
                                             uint64_t count, float* out)>;

// Takes finished blocks [first, first + checksums.size()) of (layer, kind), one after the other.
using BlockSink = std::function<absl::Status(uint32_t first, std::span<const uint8_t> bytes,
                                             std::span<const uint64_t> checksums)>;

class LayerPacker {
 public:
  // `memory_bytes` bounds floats and blocks of a pass.
  LayerPacker(RowReader reader, UnitEncoding encoding, uint64_t memory_bytes);

  // Packs one kind of unit of one layer. `matrices` in the order of the unit's columns. Reads
  // positions of `units`, which must be a permutation; fills its norms and errors, adds to sums[i]
  // for matrices[i]. `moments` of the units' inputs, if not null, steer the rounding of grouped
  // encodings; the matrices are then read twice. Errors: DATA_LOSS (weights that are not finite),
  // INVALID_ARGUMENT (values too large for the encoding).
  absl::Status PackUnits(const std::vector<const GgufTensor*>& matrices, const KindGeometry& kind,
                         const BlockSink& sink, store::v1::KindUnits& units,
                         std::span<ErrorSums> sums, const InputMoments* moments = nullptr);

  // Blocks that one pass covers.
  uint32_t PassBlocks(const KindGeometry& kind) const;

 private:
  struct Pass;

  absl::Status RunPass(const std::vector<const GgufTensor*>& matrices, const KindGeometry& kind,
                       const Pass& pass, std::vector<ColumnRecord>& records);
  absl::Status GatherColumns(const GgufTensor& matrix, const Pass& pass);
  enum class Step { kEncode, kCompare, kEncodeAndCompare };
  // Encodes the pass's columns into its blocks; compares what is stored there with the columns.
  absl::Status EncodeColumns(Step step, const GgufTensor& matrix, const KindGeometry& kind,
                             const Pass& pass, uint32_t column_in_unit, ColumnRecord& record);

  const RowReader reader_;
  const UnitEncoding encoding_;
  const uint64_t memory_bytes_;
  const uint32_t threads_;
  // Columns, then blocks of the current pass; one buffer, so that kinds of different shape share
  // it.
  std::vector<float> scratch_;
};

}  // namespace tidegate
