// What an engine sees of the weight store: static weights, residency, leases on blocks of units.
//
// Thread-compatible: one thread works with a client and its leases. The bytes behind a location may
// be read by any thread until the lease ends (streamed blocks: until Consumed()). The client trusts
// the store: it is the one that verifies; still, every offset is checked against the mapping before
// use.
//
// No wait is for ever: all of them ask an OnWait whether to go on (patience.h). A wait that was
// given up leaves its lease to the destructor as usual; its memory is not used again before the
// store has taken the release.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/shm_layout.h"
#include "weightstore/client/pack_rows.h"
#include "weightstore/client/patience.h"

namespace tidegate {

class WeightClient;

// Blocks of one (layer, kind), pinned or on their way. Released by the destructor. Not copyable;
// must end before its client.
class WeightLease {
 public:
  WeightLease() = default;
  WeightLease(WeightLease&& other) noexcept { *this = std::move(other); }
  WeightLease& operator=(WeightLease&& other) noexcept;
  ~WeightLease() { Release(); }

  // False for a lease that was default-constructed or has ended.
  bool held() const { return client_ != nullptr; }

  size_t size() const { return block_count_; }

  // Bytes of the i-th wanted block (block_bytes), or null while it is on its way or if it failed:
  // then Wait() says why.
  const std::byte* TryGet(size_t i) const;

  // Blocks that have arrived or failed so far, each once and in the order in which they did: their
  // indices are Arrival(k) for k < arrived().
  size_t arrived() const;
  size_t Arrival(size_t k) const;
  // Waits until arrived() > k. REQUIRES: k < size(). Errors as Wait(), but for those of one block.
  absl::Status WaitArrival(size_t k);

  // Waits for the i-th block. Errors: DATA_LOSS the block is damaged or cannot be read; UNAVAILABLE
  // the store is gone; INVALID_ARGUMENT, FAILED_PRECONDITION the store does not take this lease;
  // those of OnWait.
  absl::StatusOr<const std::byte*> Wait(size_t i);

  // True if the i-th block came through staging: it must be passed to Consumed() when it is used
  // up. REQUIRES: TryGet(i) is not null.
  bool IsStreamed(size_t i) const;

  // True if the i-th block was resident, or being read for somebody else, when it was asked for.
  // REQUIRES: TryGet(i) is not null.
  bool WasResident(size_t i) const;

  // Every streamed block with an index below `count` is used up and its memory may be reused.
  void Consumed(size_t count);

  // Ends the lease: pointers become invalid.
  void Release();

  // Accounts of the lease. The first call waits for the store's answer.
  struct Accounts {
    uint32_t hit_units = 0, miss_units = 0;
    uint64_t flash_bytes = 0, flash_reads = 0;
  };
  absl::StatusOr<Accounts> accounts();

  // Time spent asleep or spinning in Wait() and accounts().
  std::chrono::nanoseconds stall() const { return stall_; }

 private:
  friend class WeightClient;

  absl::Status Error() const;
  bool Rejected() const;       // as a whole: no location will come
  bool Known(size_t i) const;  // its location, or that none will come
  size_t FirstUnknown() const;
  template <typename Ready>
  absl::Status WaitFor(Ready ready);

  WeightClient* client_ = nullptr;  // null: ended
  uint32_t lease_ = 0;
  uint64_t serial_ = 0;
  size_t block_count_ = 0;
  uint64_t block_bytes_ = 0;
  std::chrono::nanoseconds stall_{0};
};

class WeightClient {
 public:
  // Connects, checks versions and geometry, maps region and session. Errors: UNAVAILABLE no store
  // is listening (yet), or it does not answer: retry; FAILED_PRECONDITION versions differ;
  // PERMISSION_DENIED, RESOURCE_EXHAUSTED as the store answers; DATA_LOSS what it shares is
  // damaged; INVALID_ARGUMENT only for the path; those of on_wait, which is called also while
  // attaching.
  static absl::StatusOr<std::unique_ptr<WeightClient>> Attach(const std::string& socket_path,
                                                              const std::string& engine_name,
                                                              OnWait on_wait = nullptr);

  const store::v1::Manifest& manifest() const { return manifest_; }
  // Frees the vocabulary in manifest(), megabytes for many models, once a Tokenizer has been made.
  void ForgetTokenizer() { manifest_.clear_tokenizer(); }
  const PackGeometry& geometry() const { return geometry_; }
  const RegionHeader& region() const { return header_; }
  std::string pack_uuid() const { return UuidText(header_.pack_uuid); }

  // Whether a static tensor lies in the region; if not, its rows can be read. In all three,
  // `tensor` is one of manifest().
  bool InRegion(const store::v1::StaticTensor& tensor) const;

  // Reads rows of a tensor that is not in the region from the pack, through the page cache. out
  // [rows.size(), bytes of a row]. REQUIRES: the rows are the tensor's. DATA_LOSS: a row
  // cannot be read or its checksum differs; those of OnWait.
  absl::Status ReadStaticRows(const store::v1::StaticTensor& tensor, std::span<const uint64_t> rows,
                              std::byte* out) {
    return pack_rows_.Read(tensor, rows, out, patience_);
  }

  // Bytes of a static tensor. REQUIRES: InRegion(tensor).
  const std::byte* StaticData(const store::v1::StaticTensor& tensor) const {
    return region_.data() + header_.static_offset + tensor.offset();
  }

  // Residency of every block of (layer, kind): a hint, it may change at any time.
  std::span<const ResidencyEntry> Residency(uint32_t layer, UnitKind kind) const;

  // True once every block of (layer, kind) lies in a slot of its own: the region holds them all,
  // the store evicts none of them, and no lease is needed to read them while the store is
  // connected.
  bool Complete(uint32_t layer, UnitKind kind);
  // The slots of (layer, kind), block_bytes apart: a resident block lies in the slot that its
  // residency entry names.
  const std::byte* Slots(uint32_t layer, UnitKind kind) const {
    return region_.data() + SlotOffset(header_, layer, kind, 0);
  }
  // Units used without a lease, for the store's counts; sent by EndPass().
  void CountUses(LeaseMode mode, uint64_t units) {
    uses_[mode == LeaseMode::kSelect ? 0 : 1] += units;
  }
  // Ends a pass over the layers. complete: it has everything that it wanted.
  void EndPass(bool complete);

  // Wants blocks: strictly increasing block numbers. At most kLeasesPerSession leases at a time.
  // UNAVAILABLE when the store is gone.
  absl::StatusOr<WeightLease> Acquire(uint32_t layer, UnitKind kind,
                                      std::span<const WantedBlock> wanted, LeaseMode mode);

  // False once the store has closed the connection.
  bool connected() const;

  // How long the store has owed something without a sign of life, and whether a wait was given up
  // that has not been seen to end since.
  std::chrono::nanoseconds silent() const { return patience_.silent(); }
  bool in_doubt() const { return patience_.in_doubt(); }
  // Asks the store for a sign of life, without waiting: whether its thread takes requests and,
  // where there is doubt, whether the block comes that was waited for. Call it every so often while
  // there is nothing to wait for, and from OnWait while there is doubt.
  void Probe();

 private:
  friend class WeightLease;

  explicit WeightClient(OnWait on_wait) : patience_(std::move(on_wait)) {}
  SessionHeader& session() const { return *session_.At<SessionHeader>(0); }
  LeaseHeader& lease_header(uint32_t lease) const {
    return *session_.At<LeaseHeader>(LeaseOffset(lease));
  }
  std::atomic<uint64_t>* locations(uint32_t lease) const {
    return session_.At<std::atomic<uint64_t>>(LeaseOffset(lease) + sizeof(LeaseHeader) +
                                              uint64_t{max_blocks_} * sizeof(WantedBlock));
  }
  std::atomic<uint32_t>* arrivals(uint32_t lease) const {
    return reinterpret_cast<std::atomic<uint32_t>*>(locations(lease) + max_blocks_);
  }
  uint64_t LeaseOffset(uint32_t lease) const { return leases_offset_ + lease * lease_stride_; }
  absl::Status CheckStatics() const;
  absl::Status Post(const RingEntry& entry);
  bool Taken(uint32_t count) const;
  absl::Status WaitTaken(uint32_t count);
  void Kick() const;
  // Remembers what a wait that was given up was for.
  void Doubt(uint32_t lease, size_t i);
  void ProbeBlock();

  Patience patience_;
  UniqueFd socket_, kick_;
  PackRows pack_rows_;
  Mapping region_, session_;
  RegionHeader header_;
  store::v1::Manifest manifest_;
  PackGeometry geometry_;
  // Copied at attach: the session is shared memory and must not move offsets later.
  uint32_t max_blocks_ = 0;
  uint64_t leases_offset_ = 0, lease_stride_ = 0;
  std::vector<bool> complete_;  // by layer, then kind
  uint64_t uses_[2] = {0, 0};   // select, stream
  uint32_t submitted_ = 0;
  uint64_t next_serial_ = 1;
  struct LeaseUse {
    bool active = false;
    uint32_t released_at = 0;  // value of submitted_ after its release
    uint32_t layer = 0;
    UnitKind kind = UnitKind::kInput;
  };
  LeaseUse leases_[kLeasesPerSession];
  uint32_t next_lease_ = 0;
  // What a wait was given up for.
  uint32_t doubtful_layer_ = 0, doubtful_block_ = 0;
  UnitKind doubtful_kind_ = UnitKind::kInput;
  std::chrono::steady_clock::time_point last_ping_;
  std::optional<uint32_t> ping_;  // value of submitted_ after the one that is out
  WeightLease probe_;             // last: it ends first
};

}  // namespace tidegate
