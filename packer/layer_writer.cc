#include "packer/layer_writer.h"

#include "base/status_macros.h"
#include "proto/gguf/ggml_type.h"

namespace tidegate {

// Finished blocks of an expert's part of a layer go where they belong in the file.
class LayerWriter::PartSink final : public BlockSink {
 public:
  PartSink(LayerWriter& writer, uint32_t layer, UnitKind kind, uint32_t first_block)
      : writer_(writer), layer_(layer), kind_(kind), first_block_(first_block) {}

  absl::StatusOr<std::span<uint8_t>> Room(uint32_t first, uint64_t bytes) override {
    bytes_ = bytes;
    return writer_.output_.Room(writer_.blocks_offset_ + writer_.plan_.geometry.BlockOffset(
                                                             layer_, kind_, first_block_ + first),
                                bytes);
  }
  absl::Status Put(std::span<const uint64_t> checksums) override {
    writer_.output_.Write();
    writer_.checksums_.insert(writer_.checksums_.end(), checksums.begin(), checksums.end());
    writer_.run_.Advance(bytes_);
    return absl::OkStatus();
  }

 private:
  LayerWriter& writer_;
  const uint32_t layer_;
  const UnitKind kind_;
  const uint32_t first_block_;
  uint64_t bytes_ = 0;
};

LayerWriter::LayerWriter(const MergedSource& source, uint64_t blocks_offset, int fd,
                         const PackOptions& options, PackPlan& plan, PackRun& run)
    : source_(source),
      blocks_offset_(blocks_offset),
      moments_(options.moments),
      plan_(plan),
      run_(run),
      input_(source.model()),
      output_(fd),
      packer_([this](const GgufTensor& matrix, uint64_t first,
                     uint64_t count) { return ReadRaw(matrix, first, count); },
              options.units, options.memory_bytes) {}

absl::Status LayerWriter::WriteAll() {
  ExpectLayers();
  for (uint32_t layer = 0; layer < plan_.geometry.layer_count; ++layer) {
    const LayerMoments* moments = moments_.empty() ? nullptr : &moments_[layer];
    store::v1::LayerUnits& units = *plan_.manifest.mutable_layers(static_cast<int>(layer));
    RETURN_IF_ERROR(PackKind(layer, UnitKind::kInput, *units.mutable_input(),
                             std::span(sums_).first(2),
                             moments != nullptr ? &moments->input : nullptr));
    RETURN_IF_ERROR(PackKind(layer, UnitKind::kHidden, *units.mutable_hidden(),
                             std::span(sums_).last(1),
                             moments != nullptr ? &moments->hidden : nullptr));
  }
  return output_.Finish();
}

void LayerWriter::ExpectLayers() {
  const auto expect = [&](const GgufTensor& tensor, uint64_t first, uint64_t count) {
    if (source_.IsPlain(tensor)) input_.Expect(tensor, first, count);
  };
  for (uint32_t layer = 0; layer < plan_.geometry.layer_count; ++layer) {
    for (const UnitKind kind : {UnitKind::kInput, UnitKind::kHidden}) {
      for (const Matrices& matrices : PartsOf(layer, kind)) {
        packer_.Announce(matrices, GeometryOf(kind, matrices), !moments_.empty(), expect);
      }
    }
  }
}

absl::StatusOr<RawRows> LayerWriter::ReadRaw(const GgufTensor& matrix, uint64_t first,
                                             uint64_t count) {
  RETURN_IF_ERROR(run_.MayGoOn());
  if (source_.IsPlain(matrix)) {
    ASSIGN_OR_RETURN(const GgmlType type, ToGgmlType(matrix.type));
    ASSIGN_OR_RETURN(const std::span<const uint8_t> rows, input_.Take(matrix, first, count));
    return RawRows{type, rows.data()};
  }
  floats_.resize(count * matrix.columns());
  RETURN_IF_ERROR(source_.ReadRows(matrix, first, count, floats_.data()));
  return RawRows{GgmlType::kF32, reinterpret_cast<const uint8_t*>(floats_.data())};
}

std::vector<LayerWriter::Matrices> LayerWriter::PartsOf(uint32_t layer, UnitKind kind) const {
  const size_t slots = plan_.layers.size() / plan_.geometry.layer_count;
  std::vector<Matrices> parts;
  for (const LayerMatrices& from : std::span(plan_.layers).subspan(layer * slots, slots)) {
    if (kind == UnitKind::kInput) {
      parts.push_back({from.gate, from.up});
    } else if (from.down != nullptr) {
      parts.push_back({from.down});
    }
  }
  return parts;
}

KindGeometry LayerWriter::GeometryOf(UnitKind kind, const Matrices& matrices) const {
  KindGeometry geometry = plan_.geometry.kind(kind);
  geometry.unit_count = static_cast<uint32_t>(matrices[0]->columns());
  geometry.block_count =
      (geometry.unit_count + geometry.units_per_block - 1) / geometry.units_per_block;
  return geometry;
}

absl::Status LayerWriter::PackKind(uint32_t layer, UnitKind kind, store::v1::KindUnits& units,
                                   std::span<ErrorSums> sums, const InputMoments* moments) {
  std::vector<ErrorSums> layer_sums(sums.size());
  uint32_t first_unit = 0;
  for (const Matrices& matrices : PartsOf(layer, kind)) {
    RETURN_IF_ERROR(PackPart(layer, kind, matrices, first_unit, units, layer_sums, moments));
    first_unit += static_cast<uint32_t>(matrices[0]->columns());
  }
  for (size_t m = 0; m < sums.size(); ++m) {
    units.add_relative_rms_errors(static_cast<float>(layer_sums[m].RelativeRms()));
    sums[m].difference += layer_sums[m].difference;
    sums[m].source += layer_sums[m].source;
  }
  return absl::OkStatus();
}

absl::Status LayerWriter::PackPart(uint32_t layer, UnitKind kind, const Matrices& matrices,
                                   uint32_t first_unit, store::v1::KindUnits& units,
                                   std::span<ErrorSums> sums, const InputMoments* moments) {
  const KindGeometry geometry = GeometryOf(kind, matrices);
  PartSink sink(*this, layer, kind, first_unit / geometry.units_per_block);
  store::v1::KindUnits part;
  for (uint32_t u = 0; !units.positions().empty() && u < geometry.unit_count; ++u) {
    part.add_positions(units.positions(static_cast<int>(first_unit + u)) - first_unit);
  }
  RETURN_IF_ERROR(packer_.PackUnits(matrices, geometry, sink, part, sums, moments));
  units.mutable_norms()->MergeFrom(part.norms());
  units.mutable_second_norms()->MergeFrom(part.second_norms());
  return absl::OkStatus();
}

}  // namespace tidegate
