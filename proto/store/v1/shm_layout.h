// Shared memory, version 5: the contract between the store and the engines attached to it.
//
// The region (one per store; engines map it read-only):
//
//   offset 0            RegionHeader
//   manifest_offset     store.v1.Manifest, serialised
//   static_offset       static weights, as in the pack's static section; without its last tensor
//                       where that may stay on flash and memory is short (pack_format.h)
//   residency_offset    atomic<uint32_t>[layers][blocks of both kinds], see ResidencyEntry
//   slots_offset        per layer: slots of input blocks, then slots of hidden blocks
//   staging_offset      [kMaxSessions][kLeasesPerSession] staging rings of staging_bytes
//
// A session (one per attached engine, a sealed memfd that both sides write; the store trusts
// nothing that it reads from it):
//
//   offset 0            SessionHeader, with the request ring
//   leases_offset       [kLeasesPerSession] of: LeaseHeader, WantedBlock[max_blocks],
//                       atomic<uint64_t> locations[max_blocks],
//                       atomic<uint32_t> arrivals[max_blocks]
//
// Life of a lease: the engine fills WantedBlock[], zeroes the locations and `arrived`, posts
// kAcquire. The store decides what is admitted, sets counts, then publishes a location per block:
// at once for resident ones, when the read has landed and its checksum agreed for the others. The
// block's list index is then the next of arrivals[], and `arrived` counts it: an engine that takes
// blocks as they come need not look at all of them again and again. The engine posts kRelease.
// A request that the store refuses is granted with an error and with both block counts 0.
// Blocks that the cache does not admit pass through the lease's staging ring in list order: a
// location with kStreamed is valid until the engine moves `consumed` past it.
//
// Rules. Fixed-width types and offsets only, never pointers. Little-endian, one host. Words that
// both sides touch are lock-free atomics; a publisher stores with release, a reader loads with
// acquire. Any change to a size or an offset is version 6. Plain data.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

inline constexpr uint64_t kRegionMagic = 0x3130474552475431;
inline constexpr uint64_t kSessionMagic = 0x3130534553475431;
inline constexpr uint32_t kShmVersion = 5;
inline constexpr uint32_t kControlVersion = 2;
inline constexpr uint32_t kAttachDescriptors = 4;  // of an answer, see control.proto
inline constexpr uint32_t kMaxSessions = 2;
inline constexpr uint32_t kLeasesPerSession = 4;
inline constexpr uint32_t kRingEntries = 16;  // power of two; a full ring makes the engine wait
inline constexpr size_t kCacheLineBytes = 64;

static_assert(std::atomic<uint32_t>::is_always_lock_free);
static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<uint32_t>) == 4 && sizeof(std::atomic<uint64_t>) == 8);

struct RegionKind {
  uint32_t unit_count;
  uint32_t unit_bytes;
  uint32_t units_per_block;
  uint32_t block_bytes;
  uint32_t block_count;      // per layer
  uint32_t slots_per_layer;  // [0, block_count]
};

struct RegionHeader {
  uint64_t magic;  // kRegionMagic, written last
  uint32_t version;
  uint32_t layer_count;
  PackUuid pack_uuid;
  uint64_t region_bytes;
  RegionKind kinds[kUnitKinds];
  uint64_t manifest_offset;
  uint64_t manifest_bytes;
  uint64_t static_offset;
  uint64_t static_bytes;
  uint64_t residency_offset;
  uint64_t slots_offset;
  uint64_t staging_offset;
  uint64_t staging_bytes;         // per lease
  uint64_t engine_reserve_bytes;  // part of the budget left to the engine's KV cache and scratch
};
static_assert(sizeof(RegionHeader) == 160 && offsetof(RegionHeader, manifest_offset) == 88);

// Residency of a block: 0 is "not resident"; otherwise slot + 1, with kInFlight while its read is
// out. Engines use it as a hint for masks, without a lease.
using ResidencyEntry = std::atomic<uint32_t>;
inline constexpr uint32_t kInFlight = 1u << 31;

// Location of a wanted block: 0 until it is known.
//   bits 0..55  offset in the region, bytes
//   bit 60      resident, or on its way for somebody else, when it was asked for
//   bit 61      streamed through staging; valid until consumed
//   bit 62      failed: the lease's error says why
//   bit 63      set in every valid location
inline constexpr uint64_t kLocationReady = uint64_t{1} << 63;
inline constexpr uint64_t kLocationFailed = uint64_t{1} << 62;
inline constexpr uint64_t kLocationStreamed = uint64_t{1} << 61;
inline constexpr uint64_t kLocationWasResident = uint64_t{1} << 60;
inline constexpr uint64_t kLocationOffsetMask = (uint64_t{1} << 56) - 1;

// Rows that may use a unit in one pass: what bounds the counts of an engine.
inline constexpr uint32_t kRowsOfPass = 1024;

// kCount: `serial` units, at most UnitsOfPass(), were used in `mode` without a lease, because all
// blocks of their kind are resident for good (slots_per_layer == block_count: the store evicts
// none). One that names more, or no mode, ends the session.
enum class RingOp : uint32_t { kAcquire = 1, kRelease = 2, kCount = 3 };

// kSelect: a mask's choice; use counts grow and every block is admitted if the policy can make
// room. kStream: a pass over blocks; fills free slots, evicts nothing, counts nothing.
enum class LeaseMode : uint32_t { kSelect = 1, kStream = 2 };

struct RingEntry {
  uint32_t op;  // RingOp
  uint32_t lease;
  uint32_t layer;
  uint32_t kind;         // UnitKind
  uint32_t mode;         // LeaseMode
  uint32_t block_count;  // entries of WantedBlock[]
  uint64_t serial;       // of the lease; a release names the acquire that it ends; kCount: units
};
static_assert(sizeof(RingEntry) == 32);

struct WantedBlock {
  uint32_t block;  // strictly increasing in the list
  // Uses of its units, summed over the rows of a pass that selected them, for counts and hit rates.
  uint16_t units = 0;
  // How much of the mask's output comes from them: root of their squared scores, as a share of the
  // block where it is largest, in 1 / kScoreMax. The policy "value" goes by it; a wrong one costs
  // hits and nothing else.
  uint16_t score = 0;
};
static_assert(sizeof(WantedBlock) == 8);
inline constexpr uint16_t kScoreMax = 0xffff;

struct LeaseHeader {
  std::atomic<uint32_t> progress;        // futex word: grows with every publication
  std::atomic<uint32_t> engine_waiting;  // 1 while the engine sleeps on `progress`
  std::atomic<uint32_t> consumed;        // streamed blocks with a list index below it are done with
  std::atomic<uint32_t> error_code;      // absl::StatusCode; published before failed locations
  std::atomic<uint64_t> granted_serial;  // the acquire whose counts stand below
  uint32_t hit_units;
  uint32_t miss_units;
  uint32_t hit_blocks;
  uint32_t miss_blocks;
  uint64_t flash_bytes;               // read from flash for this lease
  std::atomic<uint64_t> flash_reads;  // reads issued so far; grows while blocks stream
  std::atomic<uint32_t> arrived;      // entries of arrivals[] so far, failed blocks included
  char error[196];                    // terminated text
};
static_assert(sizeof(LeaseHeader) == 256);

struct SessionHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t session_index;  // [0, kMaxSessions)
  uint64_t session_bytes;
  uint64_t leases_offset;
  uint64_t lease_stride;  // bytes from one lease to the next
  uint32_t max_blocks;    // per lease
  uint32_t reserved;
  alignas(kCacheLineBytes) std::atomic<uint32_t> submitted;  // written by the engine
  alignas(kCacheLineBytes) std::atomic<uint32_t> taken;      // written by the store
  // 1 while the store sleeps: the engine must write the eventfd after submitting.
  alignas(kCacheLineBytes) std::atomic<uint32_t> store_waiting;
  alignas(kCacheLineBytes) RingEntry ring[kRingEntries];
};
static_assert(sizeof(SessionHeader) == 256 + kRingEntries * sizeof(RingEntry));

// Geometry of a session for a pack: sizes and offsets, the same on both sides.
uint32_t SessionMaxBlocks(const PackGeometry& geometry);
uint64_t SessionLeaseStride(uint32_t max_blocks);
uint64_t SessionBytes(uint32_t max_blocks);

// The most uses of units that one pass of a model can have, of kRowsOfPass rows: what a kCount may
// name.
uint64_t UnitsOfPass(const PackGeometry& geometry);

// Parts of a region for a pack, computed by the store when it creates one.
struct RegionPlan {
  uint64_t manifest_bytes = 0;
  uint64_t static_bytes = 0;
  uint64_t staging_bytes = 0;         // per lease
  uint64_t engine_reserve_bytes = 0;  // not part of the region
  uint32_t slots_per_layer[kUnitKinds] = {0, 0};
};
RegionHeader MakeRegionHeader(const PackGeometry& geometry, const PackUuid& uuid,
                              const RegionPlan& plan);

// Offset of a slot in the region.
uint64_t SlotOffset(const RegionHeader& header, uint32_t layer, UnitKind kind, uint32_t slot);
// Offset of the residency entries of (layer, kind).
uint64_t ResidencyOffset(const RegionHeader& header, uint32_t layer, UnitKind kind);
// Offset of a lease's staging ring.
uint64_t StagingOffset(const RegionHeader& header, uint32_t session, uint32_t lease);

// Checks a header copied out of a mapping of `region_bytes`: DATA_LOSS when it is not a finished
// region, FAILED_PRECONDITION for another version. Every offset lies within the region afterwards.
absl::Status ValidateRegionHeader(const RegionHeader& header, uint64_t region_bytes);
// DATA_LOSS when a valid header is of another model than the region's manifest describes.
absl::Status CheckRegionGeometry(const RegionHeader& header, const PackGeometry& geometry);
absl::Status ValidateSessionHeader(const SessionHeader& header, uint64_t session_bytes);

}  // namespace tidegate
