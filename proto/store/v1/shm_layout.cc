#include "proto/store/v1/shm_layout.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/units.h"

namespace tidegate {
namespace {

uint64_t LayerSlotBytes(const RegionHeader& header) {
  uint64_t bytes = 0;
  for (const RegionKind& k : header.kinds) bytes += uint64_t{k.slots_per_layer} * k.block_bytes;
  return bytes;
}

uint64_t ResidencyBytes(const RegionHeader& header) {
  const uint64_t blocks = uint64_t{header.kinds[0].block_count} + header.kinds[1].block_count;
  return header.layer_count * blocks * sizeof(ResidencyEntry);
}

// Fills in the offsets that follow from the sizes.
void LayOut(RegionHeader& header) {
  header.manifest_offset = kPageBytes;
  header.static_offset = RoundUp(header.manifest_offset + header.manifest_bytes, kPageBytes);
  header.residency_offset = RoundUp(header.static_offset + header.static_bytes, kPageBytes);
  header.slots_offset = RoundUp(header.residency_offset + ResidencyBytes(header), kPageBytes);
  header.staging_offset =
      RoundUp(header.slots_offset + header.layer_count * LayerSlotBytes(header), kPageBytes);
  header.region_bytes =
      header.staging_offset + header.staging_bytes * kMaxSessions * kLeasesPerSession;
}

bool SaneKind(const RegionKind& k) {
  return k.unit_count >= 1 && k.unit_count <= kMaxUnits && k.unit_bytes >= 1 &&
         k.units_per_block >= 1 && k.units_per_block <= kMaxUnitsPerBlock &&
         k.block_bytes >= kSectorBytes && k.block_bytes <= kMaxBlockBytes &&
         k.block_bytes % kSectorBytes == 0 && k.units_per_block <= k.block_bytes / k.unit_bytes &&
         k.block_count == (k.unit_count + k.units_per_block - 1) / k.units_per_block &&
         k.slots_per_layer <= k.block_count;
}

}  // namespace

uint32_t SessionMaxBlocks(const PackGeometry& geometry) {
  return std::max(geometry.kinds[0].block_count, geometry.kinds[1].block_count);
}

uint64_t SessionLeaseStride(uint32_t max_blocks) {
  return RoundUp(sizeof(LeaseHeader) +
                     uint64_t{max_blocks} * (sizeof(WantedBlock) + sizeof(std::atomic<uint64_t>) +
                                             sizeof(std::atomic<uint32_t>)),
                 kCacheLineBytes);
}

uint64_t SessionBytes(uint32_t max_blocks) {
  return RoundUp(RoundUp(sizeof(SessionHeader), kPageBytes) +
                     kLeasesPerSession * SessionLeaseStride(max_blocks),
                 kPageBytes);
}

uint64_t UnitsOfPass(const PackGeometry& geometry) {
  uint64_t units = 0;
  for (const KindGeometry& kind : geometry.kinds) units += kind.unit_count;
  return units * geometry.layer_count * kRowsOfPass;
}

RegionHeader MakeRegionHeader(const PackGeometry& geometry, const PackUuid& uuid,
                              const RegionPlan& plan) {
  RegionHeader header = {};
  header.magic = kRegionMagic;
  header.version = kShmVersion;
  header.layer_count = geometry.layer_count;
  header.pack_uuid = uuid;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const KindGeometry& kind = geometry.kinds[k];
    header.kinds[k] = {kind.unit_count,  kind.unit_bytes,  kind.units_per_block,
                       kind.block_bytes, kind.block_count, plan.slots_per_layer[k]};
  }
  header.manifest_bytes = plan.manifest_bytes;
  header.static_bytes = plan.static_bytes;
  header.staging_bytes = plan.staging_bytes;
  header.engine_reserve_bytes = plan.engine_reserve_bytes;
  LayOut(header);
  return header;
}

uint64_t SlotOffset(const RegionHeader& header, uint32_t layer, UnitKind kind, uint32_t slot) {
  const uint64_t before = kind == UnitKind::kHidden ? uint64_t{header.kinds[0].slots_per_layer} *
                                                          header.kinds[0].block_bytes
                                                    : 0;
  return header.slots_offset + layer * LayerSlotBytes(header) + before +
         uint64_t{slot} * header.kinds[static_cast<uint32_t>(kind)].block_bytes;
}

uint64_t ResidencyOffset(const RegionHeader& header, uint32_t layer, UnitKind kind) {
  const uint64_t per_layer = uint64_t{header.kinds[0].block_count} + header.kinds[1].block_count;
  const uint64_t before = kind == UnitKind::kHidden ? header.kinds[0].block_count : 0;
  return header.residency_offset + (layer * per_layer + before) * sizeof(ResidencyEntry);
}

uint64_t StagingOffset(const RegionHeader& header, uint32_t session, uint32_t lease) {
  return header.staging_offset +
         (uint64_t{session} * kLeasesPerSession + lease) * header.staging_bytes;
}

absl::Status ValidateRegionHeader(const RegionHeader& header, uint64_t region_bytes) {
  if (region_bytes < kPageBytes || header.magic != kRegionMagic) {
    return absl::DataLossError("shared region is not finished or not one of Tidegate's");
  }
  if (header.version != kShmVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("shared region has layout version ", header.version, ", this program uses ",
                     kShmVersion, "; run store and engine of the same release"));
  }
  const uint64_t limit = uint64_t{1} << 50;
  const bool sizes = header.region_bytes == region_bytes && header.layer_count >= 1 &&
                     header.layer_count <= kMaxLayers && SaneKind(header.kinds[0]) &&
                     SaneKind(header.kinds[1]) && header.manifest_bytes <= kMaxManifestBytes &&
                     header.static_bytes <= limit && header.staging_bytes <= limit &&
                     header.staging_bytes % kPageBytes == 0 &&
                     header.staging_bytes >= header.kinds[0].block_bytes &&
                     header.staging_bytes >= header.kinds[1].block_bytes;
  if (!sizes) return absl::DataLossError("shared region header is damaged");
  RegionHeader expected = header;
  LayOut(expected);
  if (expected.manifest_offset != header.manifest_offset ||
      expected.static_offset != header.static_offset ||
      expected.residency_offset != header.residency_offset ||
      expected.slots_offset != header.slots_offset ||
      expected.staging_offset != header.staging_offset ||
      expected.region_bytes != header.region_bytes) {
    return absl::DataLossError("shared region header is damaged");
  }
  return absl::OkStatus();
}

absl::Status CheckRegionGeometry(const RegionHeader& header, const PackGeometry& geometry) {
  bool same = header.layer_count == geometry.layer_count;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const RegionKind& have = header.kinds[k];
    const KindGeometry& want = geometry.kinds[k];
    same = same && have.unit_count == want.unit_count && have.unit_bytes == want.unit_bytes &&
           have.units_per_block == want.units_per_block && have.block_bytes == want.block_bytes &&
           have.block_count == want.block_count;
  }
  return same ? absl::OkStatus()
              : absl::DataLossError("shared region and manifest disagree; restart the store");
}

absl::Status ValidateSessionHeader(const SessionHeader& header, uint64_t session_bytes) {
  const bool good = session_bytes >= sizeof(SessionHeader) && header.magic == kSessionMagic &&
                    header.version == kShmVersion && header.session_index < kMaxSessions &&
                    header.max_blocks >= 1 && header.max_blocks <= kMaxUnits &&
                    header.leases_offset == RoundUp(sizeof(SessionHeader), kPageBytes) &&
                    header.lease_stride == SessionLeaseStride(header.max_blocks) &&
                    header.session_bytes == SessionBytes(header.max_blocks) &&
                    header.session_bytes == session_bytes;
  return good ? absl::OkStatus() : absl::DataLossError("session header is damaged");
}

}  // namespace tidegate
