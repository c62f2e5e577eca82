#include "proto/store/v1/pack_format.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // AVX2 and AVX-512 where the CPU has them
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "proto/gguf/ggml_type.h"
#include "proto/store/v1/manifest_names.h"
#include "proto/store/v1/static_tensors.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {
namespace {

absl::Status Damaged(std::string_view what) {
  return absl::DataLossError(
      absl::StrCat("damaged pack: ", std::string(what), "; pack the model again"));
}

// Reads a part of a pack. That the file ends before it is a fact about the pack, not about what
// was asked for.
absl::Status ReadPart(int fd, uint64_t offset, void* data, size_t bytes, const std::string& path) {
  const absl::Status read = ReadAt(fd, offset, data, bytes);
  if (!absl::IsOutOfRange(read)) return Annotate(read, path);
  return absl::DataLossError(
      absl::StrCat(path, ": truncated pack: ", read.message(), "; pack the model again"));
}

// One kind's layout: derived numbers must agree with the recorded ones.
absl::StatusOr<KindGeometry> KindFromLayout(const store::v1::UnitLayout& layout,
                                            UnitEncoding encoding, std::string_view name) {
  KindGeometry kind = {.unit_count = layout.unit_count(),
                       .unit_bytes = layout.unit_bytes(),
                       .units_per_block = layout.units_per_block(),
                       .block_bytes = layout.block_bytes(),
                       .columns_per_unit = layout.columns_per_unit(),
                       .column_elements = layout.column_elements()};
  const bool sane = kind.unit_count >= 1 && kind.unit_count <= kMaxUnits &&
                    kind.column_elements >= 1 && kind.column_elements <= kMaxUnits &&
                    kind.columns_per_unit >= 1 && kind.columns_per_unit <= 2 &&
                    kind.units_per_block >= 1 && kind.units_per_block <= kMaxUnitsPerBlock &&
                    kind.block_bytes >= kSectorBytes && kind.block_bytes <= kMaxBlockBytes &&
                    kind.block_bytes % kSectorBytes == 0;
  if (!sane)
    return Damaged(absl::StrCat("layout of ", std::string(name), " units is out of range"));
  if (IsGrouped(encoding) && kind.column_elements % kQuantGroup != 0) {
    return Damaged(absl::StrCat("columns of ", std::string(name), " units are not whole groups"));
  }
  const uint64_t unit_bytes =
      uint64_t{kind.columns_per_unit} * ColumnBytes(encoding, kind.column_elements);
  if (unit_bytes != kind.unit_bytes || kind.units_per_block > kind.block_bytes / kind.unit_bytes) {
    return Damaged(absl::StrCat("sizes of ", std::string(name), " units disagree"));
  }
  kind.block_count = (kind.unit_count + kind.units_per_block - 1) / kind.units_per_block;
  return kind;
}

// `slots`: experts, whose units stay apart.
absl::Status CheckLayer(const store::v1::KindUnits& units, const KindGeometry& kind,
                        uint32_t slots) {
  if (units.positions().empty()) return absl::OkStatus();
  if (static_cast<uint32_t>(units.positions_size()) != kind.unit_count) {
    return Damaged("a permutation has the wrong length");
  }
  std::vector<bool> seen(kind.unit_count);
  const uint32_t per_slot = kind.unit_count / slots;
  for (uint32_t unit = 0; unit < kind.unit_count; ++unit) {
    const uint32_t position = units.positions(static_cast<int>(unit));
    if (position >= kind.unit_count || seen[position])
      return Damaged("a permutation repeats a unit");
    if (position / per_slot != unit / per_slot) return Damaged("a permutation mixes experts");
    seen[position] = true;
  }
  return absl::OkStatus();
}

bool SaneExperts(const store::v1::HyperParameters& hp) {
  if (hp.expert_count() == 0) return hp.experts_used() == 0 && hp.shared_experts() == 0;
  return hp.expert_count() <= kMaxExperts && hp.shared_experts() <= kMaxExperts &&
         hp.experts_used() >= 1 && hp.experts_used() <= hp.expert_count();
}

bool IsFactor(float value) { return std::isfinite(value) && value >= 0; }

// What tells architectures apart; the sizes are checked elsewhere.
bool SaneArithmetic(const store::v1::HyperParameters& hp) {
  const store::v1::RopeScaling& rope = hp.rope_scaling();
  for (const float value : {hp.embedding_scale(), hp.attention_scale(), hp.attention_cap(),
                            hp.logit_cap(), hp.windowed_rope_base(), rope.factor(),
                            rope.magnitude(), rope.yarn_beta_fast(), rope.yarn_beta_slow()}) {
    if (!IsFactor(value)) return false;
  }
  const auto windows = static_cast<uint32_t>(hp.windows_size());
  const bool scaled = rope.kind() == store::v1::RopeScaling::KIND_LINEAR ||
                      rope.kind() == store::v1::RopeScaling::KIND_YARN;
  return store::v1::HyperParameters::Activation_IsValid(hp.activation()) &&
         store::v1::HyperParameters::RopePairs_IsValid(hp.rope_pairs()) &&
         store::v1::RopeScaling::Kind_IsValid(rope.kind()) && (!scaled || rope.factor() > 0) &&
         (windows == 0 || windows == hp.layer_count());
}

absl::Status CheckHyperParameters(const store::v1::HyperParameters& hp) {
  const bool sane =
      hp.layer_count() >= 1 && hp.layer_count() <= kMaxLayers && hp.hidden_size() >= 1 &&
      hp.hidden_size() <= kMaxUnits && hp.intermediate_size() >= 1 &&
      hp.intermediate_size() <= kMaxUnits && hp.query_heads() >= 1 && hp.query_heads() <= 4096 &&
      hp.kv_heads() >= 1 && hp.query_heads() % hp.kv_heads() == 0 && hp.head_size() >= 2 &&
      hp.head_size() <= 4096 && hp.embedding_rows() >= 1 && hp.embedding_rows() <= (4u << 20) &&
      hp.context_length() >= 1 && hp.rope_dims() <= hp.head_size() && hp.rope_dims() % 2 == 0 &&
      std::isfinite(hp.rms_epsilon()) && hp.rms_epsilon() >= 0 && std::isfinite(hp.rope_base()) &&
      hp.rope_base() > 0;
  return sane && SaneArithmetic(hp) && SaneExperts(hp)
             ? absl::OkStatus()
             : Damaged("hyper-parameters are out of range");
}

}  // namespace

uint32_t ExpertSlots(const store::v1::HyperParameters& hp) {
  return hp.expert_count() == 0 ? 1 : hp.expert_count() + hp.shared_experts();
}

const char* UnitKindName(UnitKind kind) { return kind == UnitKind::kInput ? "input" : "hidden"; }

uint64_t PackGeometry::layer_bytes() const {
  uint64_t bytes = 0;
  for (const KindGeometry& k : kinds) bytes += uint64_t{k.block_count} * k.block_bytes;
  return bytes;
}

uint64_t PackGeometry::BlockOffset(uint32_t layer, UnitKind k, uint32_t block) const {
  const uint64_t before =
      k == UnitKind::kHidden ? uint64_t{kinds[0].block_count} * kinds[0].block_bytes : 0;
  return layer * layer_bytes() + before + uint64_t{block} * kind(k).block_bytes;
}

uint64_t PackGeometry::BlockIndex(uint32_t layer, UnitKind k, uint32_t block) const {
  return uint64_t{layer} * layer_blocks() + (k == UnitKind::kHidden ? kinds[0].block_count : 0) +
         block;
}

absl::StatusOr<PackGeometry> GeometryFromManifest(const store::v1::Manifest& manifest) {
  RETURN_IF_ERROR(CheckHyperParameters(manifest.hyper_parameters()));
  if (!IsUnitEncoding(manifest.unit_encoding())) return Damaged("unknown unit encoding");
  const auto encoding = static_cast<UnitEncoding>(manifest.unit_encoding());
  PackGeometry geometry;
  geometry.layer_count = manifest.hyper_parameters().layer_count();
  ASSIGN_OR_RETURN(geometry.kinds[0], KindFromLayout(manifest.input_units(), encoding, "input"));
  ASSIGN_OR_RETURN(geometry.kinds[1], KindFromLayout(manifest.hidden_units(), encoding, "hidden"));
  const auto& hp = manifest.hyper_parameters();
  const uint64_t slots = ExpertSlots(hp);
  if (geometry.kinds[0].unit_count != slots * hp.hidden_size() ||
      geometry.kinds[0].column_elements != hp.intermediate_size() ||
      geometry.kinds[0].columns_per_unit != 2 ||
      geometry.kinds[1].unit_count != slots * hp.intermediate_size() ||
      geometry.kinds[1].column_elements != hp.hidden_size() ||
      geometry.kinds[1].columns_per_unit != 1 ||
      static_cast<uint32_t>(manifest.layers_size()) != hp.layer_count()) {
    return Damaged("unit layouts do not fit the hyper-parameters");
  }
  for (const KindGeometry& kind : geometry.kinds) {
    if (slots > 1 && kind.unit_count / slots % kind.units_per_block != 0) {
      return Damaged("a block holds units of two experts");
    }
  }
  for (const store::v1::LayerUnits& layer : manifest.layers()) {
    RETURN_IF_ERROR(CheckLayer(layer.input(), geometry.kinds[0], static_cast<uint32_t>(slots)));
    RETURN_IF_ERROR(CheckLayer(layer.hidden(), geometry.kinds[1], static_cast<uint32_t>(slots)));
  }
  return geometry;
}

uint64_t Checksum(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

absl::Status ValidatePackHeader(const PackHeader& header, uint64_t file_bytes) {
  if (header.magic != kPackMagic) {
    return absl::InvalidArgumentError("not a Tidegate pack (make one with `tidegate pack`)");
  }
  if (header.version != kPackVersion) {
    return absl::FailedPreconditionError(absl::StrCat("pack version ", header.version,
                                                      ", this program reads version ", kPackVersion,
                                                      "; pack the model again with this release"));
  }
  if (header.header_xxh3 != Checksum(&header, offsetof(PackHeader, header_xxh3))) {
    return Damaged("header checksum differs");
  }
  if (header.file_bytes != file_bytes) {
    return absl::DataLossError(absl::StrCat("truncated pack: ", file_bytes, " of ",
                                            header.file_bytes, " bytes; pack the model again"));
  }
  const auto within = [&](uint64_t offset, uint64_t bytes) {
    return offset >= kPageBytes && offset <= file_bytes && bytes <= file_bytes - offset;
  };
  if (!within(header.static_offset, header.static_bytes) ||
      !within(header.blocks_offset, header.blocks_bytes) ||
      header.checksum_count > file_bytes / sizeof(uint64_t) ||
      !within(header.checksums_offset, header.checksum_count * sizeof(uint64_t)) ||
      header.manifest_bytes > kMaxManifestBytes ||
      !within(header.manifest_offset, header.manifest_bytes) ||
      header.static_offset % kPageBytes != 0 || header.blocks_offset % kPageBytes != 0) {
    return Damaged("a section lies outside the file");
  }
  return absl::OkStatus();
}

absl::StatusOr<PackIndex> ReadPackIndex(int fd, const std::string& path) {
  PackIndex index;
  ASSIGN_OR_RETURN(const uint64_t file_bytes, FileSize(fd));
  if (file_bytes < sizeof(PackHeader)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a Tidegate pack: ", file_bytes, " bytes is too short"));
  }
  RETURN_IF_ERROR(ReadPart(fd, 0, &index.header, sizeof(index.header), path));
  const PackHeader& header = index.header;
  RETURN_IF_ERROR(Annotate(ValidatePackHeader(header, file_bytes), path));

  index.manifest_bytes.resize(header.manifest_bytes);
  RETURN_IF_ERROR(ReadPart(fd, header.manifest_offset, index.manifest_bytes.data(),
                           header.manifest_bytes, path));
  if (Checksum(index.manifest_bytes.data(), header.manifest_bytes) != header.manifest_xxh3 ||
      !index.manifest.ParseFromString(index.manifest_bytes)) {
    return Annotate(Damaged("manifest checksum differs"), path);
  }
  BoundNames(index.manifest);
  auto geometry = GeometryFromManifest(index.manifest);
  if (!geometry.ok()) return Annotate(geometry.status(), path);
  index.geometry = *geometry;
  RETURN_IF_ERROR(Annotate(CheckStaticTensors(index.manifest, header.static_bytes), path));
  if (index.geometry.blocks_bytes() != header.blocks_bytes ||
      uint64_t{index.geometry.layer_blocks()} * index.geometry.layer_count !=
          header.checksum_count) {
    return Annotate(Damaged("block section has the wrong size"), path);
  }
  // Last: its size is now known to be the model's and not only what a header says.
  index.block_checksums.resize(header.checksum_count);
  const size_t checksum_bytes = header.checksum_count * sizeof(uint64_t);
  RETURN_IF_ERROR(
      ReadPart(fd, header.checksums_offset, index.block_checksums.data(), checksum_bytes, path));
  if (Checksum(index.block_checksums.data(), checksum_bytes) != header.checksums_xxh3) {
    return Annotate(Damaged("the checksum table's own checksum differs"), path);
  }
  return index;
}

std::string UuidText(const PackUuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    absl::StrAppendFormat(&text, "%02x", uuid[i]);
  }
  return text;
}

}  // namespace tidegate
