// Turns the MLP matrices of a layer into blocks of units: the transposition at the heart of
// packing.
//
// Sources are row-major and a unit needs columns, so a *pass* covers the columns of some blocks: it
// reads every row of the matrix once, band by band, and puts what each column gets from a band in
// its place (kernels/pack_kernels.h), until the blocks are finished. The number of blocks in a pass
// follows from the memory allowed; ordinary models need one pass. Threads share the columns of a
// band: results do not depend on their number, nor, without moments, on that of passes; with
// moments, columns of one pass correct one another (error_feedback.h), for which they are held as
// floats. Owned by one thread; uses helpers inside.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "packer/input_moments.h"
#include "packer/kernels/pack_kernels.h"
#include "packer/source_model.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/pack_format.h"
#include "proto/store/v1/unit_codec.h"

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

// Rows of a matrix, not decoded, without gaps.
struct RawRows {
  GgmlType type;
  const uint8_t* bytes;
};

// Rows [first, first + count) of a matrix; until the next call.
using RowReader = std::function<absl::StatusOr<RawRows>(const GgufTensor& matrix, uint64_t first,
                                                        uint64_t count)>;

// Where finished blocks of (layer, kind) go, one run after the other.
class BlockSink {
 public:
  virtual ~BlockSink() = default;
  // Memory for `bytes` of whole blocks, the first of which is `first`; the packer fills it.
  virtual absl::StatusOr<std::span<uint8_t>> Room(uint32_t first, uint64_t bytes) = 0;
  // They are finished; one checksum per block.
  virtual absl::Status Put(std::span<const uint64_t> checksums) = 0;
};

class LayerPacker {
 public:
  // `memory_bytes` bounds what a pass holds: its blocks twice, for a sink that writes one run while
  // the next is made; with moments its blocks and its columns as floats.
  LayerPacker(RowReader reader, UnitEncoding encoding, uint64_t memory_bytes);

  using Matrices = std::vector<const GgufTensor*>;

  // Packs one kind of unit of one layer. `matrices` in the order of the unit's columns. Reads
  // positions of `units`, which must be a permutation; fills its norms and errors, adds to sums[i]
  // for matrices[i]. `moments` of the units' inputs, if not null, steer the rounding of grouped
  // encodings; the matrices are then read twice. Errors: DATA_LOSS (a weight that is not finite),
  // INVALID_ARGUMENT (one that is too large for the encoding); its place is named.
  absl::Status PackUnits(const Matrices& matrices, const KindGeometry& kind, BlockSink& sink,
                         store::v1::KindUnits& units, std::span<ErrorSums> sums,
                         const InputMoments* moments = nullptr);

  // The rows that PackUnits() will ask its reader for, in that order.
  using RowsCallback =
      std::function<void(const GgufTensor& matrix, uint64_t first, uint64_t count)>;
  void Announce(const Matrices& matrices, const KindGeometry& kind, bool moments,
                const RowsCallback& expect) const;

  // Blocks that one pass covers.
  uint32_t PassBlocks(const KindGeometry& kind, bool moments) const;

 private:
  struct Pass;
  struct Columns;

  absl::Status RunPass(const Matrices& matrices, const KindGeometry& kind, const Pass& pass,
                       std::vector<ColumnRecord>& records);
  // Both for one matrix of the pass, whose columns become `out`.
  absl::Status PackColumns(const GgufTensor& matrix, const Pass& pass, const Columns& out,
                           ColumnRecord& record);
  absl::Status PackWithFeedback(const GgufTensor& matrix, const Pass& pass, const Columns& out,
                                ColumnRecord& record);
  // Reads the whole matrix and stores the pass's columns; sums_ are then those of the columns.
  absl::Status StoreColumns(const GgufTensor& matrix, const Pass& pass, const Columns& out);
  absl::Status StoreBand(const GgufTensor& matrix, const RawRows& rows, uint64_t first_row,
                         uint64_t count, const Pass& pass, const Columns& out);
  SlabSums SumsFrom(uint64_t column);
  // An error if what was learnt of a column says that it cannot be stored.
  absl::Status CheckColumn(const GgufTensor& matrix, uint64_t column, const ColumnRecord& record);

  const RowReader reader_;
  const UnitEncoding encoding_;
  const uint64_t memory_bytes_;
  const uint32_t threads_;
  const PackKernels& kernels_;
  std::vector<float> scratch_;   // columns of a pass with moments
  std::vector<double> sums_[3];  // SlabSums by column of the matrix
};

}  // namespace tidegate
