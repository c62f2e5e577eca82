// The store's side of the shared region: one private file on tmpfs, locked by the store that owns
// it. Thread-compatible.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/shutdown.h"
#include "base/unique_fd.h"
#include "proto/store/v1/shm_layout.h"

namespace tidegate {

class Region {
 public:
  // Creates `path` (mode 0600) or takes over one that an earlier store left with the same header.
  // The memory is reserved at once, so that a full tmpfs is an error here and not a SIGBUS later.
  // A new region stays without magic until Publish().
  // Errors: ALREADY_EXISTS another store holds it; FAILED_PRECONDITION not on tmpfs, or a file that
  // is not ours; RESOURCE_EXHAUSTED tmpfs is full.
  static absl::StatusOr<Region> Open(const std::string& path, const RegionHeader& header);

  // True if an earlier store's content was taken over.
  bool adopted() const { return adopted_; }
  // Bytes of it that lie in huge pages; 0 where the kernel gives none.
  uint64_t huge_bytes() const { return huge_bytes_; }
  // Marks a new region as complete.
  void Publish();

  const RegionHeader& header() const { return header_; }
  std::byte* data() const { return mapping_.data(); }
  std::span<std::byte> bytes() const { return {mapping_.data(), mapping_.size()}; }
  std::span<ResidencyEntry> residency(uint32_t layer, UnitKind kind) const;
  std::byte* slot(uint32_t layer, UnitKind kind, uint32_t slot) const {
    return data() + SlotOffset(header_, layer, kind, slot);
  }
  // Has the file removed also where a signal ends the process; a new one is from the beginning.
  void RemoveAtEnd();
  // A descriptor that can only be read, for engines.
  int read_only_fd() const { return read_only_.get(); }
  // Removes the file's name; the memory goes with the last mapping.
  void Unlink();

 private:
  std::string path_;
  RegionHeader header_;
  UniqueFd fd_, read_only_;
  Mapping mapping_;
  bool adopted_ = false;
  uint64_t huge_bytes_ = 0;
  RemovedAtEnd removed_at_end_;
};

}  // namespace tidegate
