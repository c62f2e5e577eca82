// Where the MLP gets its units from: the weight store's leases (leased_units.h), or a script in
// tests that decides what lands, when, and what fails. Used by the decode thread alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "proto/store/v1/shm_layout.h"

namespace tidegate {

// Blocks that were asked for, resident or on their way. Gives them back when destroyed.
class UnitFlow {
 public:
  virtual ~UnitFlow() = default;

  virtual size_t size() const = 0;

  // Indices of blocks that have landed since the last call, in that order; empty once all have.
  // With `wait`, it waits for one. An error is that of a block that will not come, or of the store;
  // the flow is of no further use then.
  virtual absl::StatusOr<std::span<const uint32_t>> Next(bool wait) = 0;

  // REQUIRES of all below: block i has landed.
  virtual const std::byte* Data(size_t i) const = 0;
  // It came through staging: the memory is scarce until UsedUp() passes it.
  virtual bool IsStreamed(size_t i) const = 0;
  // It was in memory, or being read for somebody else, when it was asked for.
  virtual bool WasResident(size_t i) const = 0;

  // The bytes of blocks with an index below `count` are no longer needed.
  virtual void UsedUp(size_t count) = 0;

  struct Cost {
    uint64_t flash_bytes = 0, flash_reads = 0;
    double stall_seconds = 0;  // spent waiting in here
  };
  virtual absl::StatusOr<Cost> cost() = 0;
};

class UnitSource {
 public:
  virtual ~UnitSource() = default;

  virtual const PackGeometry& geometry() const = 0;

  // Residency of every block of (layer, kind): a hint, it may change at any time.
  virtual std::span<const ResidencyEntry> Residency(uint32_t layer, UnitKind kind) const = 0;

  // Asks for blocks, strictly rising. A few flows may be open at a time (kLeasesPerSession).
  virtual absl::StatusOr<std::unique_ptr<UnitFlow>> Open(uint32_t layer, UnitKind kind,
                                                         std::span<const WantedBlock> wanted,
                                                         LeaseMode mode) = 0;

  // The slots of (layer, kind) where every block is resident for good, so that nothing has to be
  // asked for; else null. Block b lies in slot Residency()[b] - 1.
  virtual const std::byte* CompleteSlots(uint32_t layer, UnitKind kind) = 0;
  // Units used without asking, for the store's counts.
  virtual void CountUses(LeaseMode mode, uint64_t units) = 0;
};

}  // namespace tidegate
