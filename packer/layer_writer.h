// Writes the streamed weights of a pack: every layer's units as blocks, in the order of the file.
// Owned by one thread; uses helpers inside (layer_packer.h does the transposing).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "packer/input_moments.h"
#include "packer/layer_packer.h"
#include "packer/merged_source.h"
#include "packer/pack_options.h"
#include "packer/pack_plan.h"
#include "packer/pack_run.h"
#include "packer/read_ahead.h"
#include "packer/write_behind.h"

namespace tidegate {

class LayerWriter {
 public:
  // Blocks go into `fd` from `blocks_offset` on. Of `options` counts how units are stored, memory
  // and moments. All arguments must outlive this.
  LayerWriter(const MergedSource& source, uint64_t blocks_offset, int fd,
              const PackOptions& options, PackPlan& plan, PackRun& run);

  // Fills norms and errors of the manifest's layers, whose positions are there already; touches
  // nothing else of it. Errors: those of reading and writing; DATA_LOSS and INVALID_ARGUMENT of
  // LayerPacker::PackUnits(); CANCELLED once the run has failed.
  absl::Status WriteAll();

  // Of WriteAll(): a checksum per block, in the order of the file, and the sums of gate, up and
  // down over all layers.
  std::span<const uint64_t> checksums() const { return checksums_; }
  const std::array<ErrorSums, 3>& sums() const { return sums_; }

 private:
  using Matrices = LayerPacker::Matrices;
  class PartSink;

  // Tells the input everything that will be read, in order.
  void ExpectLayers();
  absl::StatusOr<RawRows> ReadRaw(const GgufTensor& matrix, uint64_t first, uint64_t count);
  // For each expert the matrices of this kind, whose columns are its units.
  std::vector<Matrices> PartsOf(uint32_t layer, UnitKind kind) const;
  // As if the part were all of the layer's units.
  KindGeometry GeometryOf(UnitKind kind, const Matrices& matrices) const;
  absl::Status PackKind(uint32_t layer, UnitKind kind, store::v1::KindUnits& units,
                        std::span<ErrorSums> sums, const InputMoments* moments);
  absl::Status PackPart(uint32_t layer, UnitKind kind, const Matrices& matrices,
                        uint32_t first_unit, store::v1::KindUnits& units, std::span<ErrorSums> sums,
                        const InputMoments* moments);

  const MergedSource& source_;
  const uint64_t blocks_offset_;
  const std::span<const LayerMoments> moments_;
  PackPlan& plan_;
  PackRun& run_;
  ReadAhead input_;
  WriteBehind output_;
  LayerPacker packer_;
  std::vector<float> floats_;  // rows that are not plain
  std::vector<uint64_t> checksums_;
  std::array<ErrorSums, 3> sums_;
};

}  // namespace tidegate
