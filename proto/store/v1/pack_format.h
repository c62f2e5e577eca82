// The pack file (model.tgpack), version 2: the contract between the packer and the store.
//
//   1. PackHeader       4096 bytes at offset 0; written last, so that half a pack is no pack
//   2. static section   page-aligned; the tensors of Manifest.static_tensors, rows as in
//                       static_rows.h. The last one may have a checksum for each row: an embedding
//                       that is not the head, of which a token needs one row. A store may leave it
//                       on flash.
//   3. block section    page-aligned; for each layer its input blocks, then its hidden blocks, each
//                       a multiple of 512 bytes
//   4. block checksums  uint64 XXH3 of every block, in the order of the block section
//   5. manifest         store.v1.Manifest, serialised
//
// Little-endian. Offsets in bytes from the start of the file. Header, manifest, checksum table,
// every static tensor and every block carry an XXH3-64 checksum. A change to any of this is
// version 3.
// Plain data and functions without state: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint64_t kSectorBytes = 512;  // blocks are whole sectors, of file and memory
inline constexpr uint64_t kPackMagic = 0x314b434150475431;  // "1TGPACK1"
inline constexpr uint32_t kPackVersion = 2;
inline constexpr uint64_t kStaticAlign = 64;  // bytes, offset of each static tensor

// Limits that a reader accepts; they bound every allocation made from a file's numbers.
inline constexpr uint32_t kMaxLayers = 1024;
inline constexpr uint32_t kMaxUnits = 1u << 20;  // per layer and kind
inline constexpr uint32_t kMaxExperts = 4096;    // per layer; as many shared ones
inline constexpr uint32_t kMaxUnitsPerBlock = 0xffff;
inline constexpr uint32_t kMaxBlockBytes = 8u << 20;
inline constexpr uint64_t kMaxManifestBytes = 512ull << 20;

using PackUuid = std::array<uint8_t, 16>;

struct PackHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t header_bytes;  // kPageBytes
  PackUuid uuid;
  uint64_t file_bytes;
  uint64_t static_offset;
  uint64_t static_bytes;
  uint64_t blocks_offset;
  uint64_t blocks_bytes;
  uint64_t checksums_offset;
  uint64_t checksum_count;
  uint64_t checksums_xxh3;
  uint64_t manifest_offset;
  uint64_t manifest_bytes;
  uint64_t manifest_xxh3;
  uint64_t header_xxh3;  // of all bytes before this field
};
static_assert(sizeof(PackHeader) == 128 && std::is_trivially_copyable_v<PackHeader>);

// Kinds of units, also the index into arrays by kind.
enum class UnitKind : uint32_t { kInput = 0, kHidden = 1 };
inline constexpr uint32_t kUnitKinds = 2;
const char* UnitKindName(UnitKind kind);  // "input", "hidden"

// Sizes of one kind of unit, the same in every layer.
struct KindGeometry {
  uint32_t unit_count = 0;  // per layer
  uint32_t unit_bytes = 0;
  uint32_t units_per_block = 0;
  uint32_t block_bytes = 0;
  uint32_t block_count = 0;  // per layer
  uint32_t columns_per_unit = 0;
  uint32_t column_elements = 0;
};

// Where everything lies; computed from the manifest, so that readers and writer cannot disagree.
struct PackGeometry {
  uint32_t layer_count = 0;
  KindGeometry kinds[kUnitKinds];

  const KindGeometry& kind(UnitKind k) const { return kinds[static_cast<uint32_t>(k)]; }
  uint64_t layer_bytes() const;
  uint32_t layer_blocks() const { return kinds[0].block_count + kinds[1].block_count; }
  uint64_t blocks_bytes() const { return layer_bytes() * layer_count; }
  // Offset of a block from the start of the block section, and its index in the checksum table.
  uint64_t BlockOffset(uint32_t layer, UnitKind k, uint32_t block) const;
  uint64_t BlockIndex(uint32_t layer, UnitKind k, uint32_t block) const;
};

// MLPs of a layer: 1, or its experts, the shared ones last.
uint32_t ExpertSlots(const store::v1::HyperParameters& hp);

// Checks the manifest's numbers against each other and against the limits above.
absl::StatusOr<PackGeometry> GeometryFromManifest(const store::v1::Manifest& manifest);

// XXH3-64 of a byte range, the checksum used everywhere in packs and regions.
uint64_t Checksum(const void* data, size_t bytes);

// Everything in a pack but its weights and blocks, read and verified.
struct PackIndex {
  PackHeader header;
  std::string manifest_bytes;  // serialised, as stored
  store::v1::Manifest manifest;
  PackGeometry geometry;
  std::vector<uint64_t> block_checksums;
};

// Errors: INVALID_ARGUMENT not a pack; FAILED_PRECONDITION another version; DATA_LOSS truncated or
// damaged. `path` is for messages.
absl::StatusOr<PackIndex> ReadPackIndex(int fd, const std::string& path);

// Checks a header read from a file of `file_bytes`.
absl::Status ValidatePackHeader(const PackHeader& header, uint64_t file_bytes);

// Canonical text form, e.g. "1b4e28ba-2fa1-11d2-883f-0016d3cca427".
std::string UuidText(const PackUuid& uuid);

}  // namespace tidegate
