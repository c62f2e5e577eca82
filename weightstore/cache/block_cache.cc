#include "weightstore/cache/block_cache.h"

#include <algorithm>

#include "base/check.h"

namespace tidegate {

BlockCache::BlockCache(std::span<ResidencyEntry> residency, uint32_t slot_count,
                       std::unique_ptr<EvictionPolicy> policy)
    : residency_(residency),
      policy_(std::move(policy)),
      slots_(slot_count),
      in_mask_(residency.size(), false) {
  for (uint32_t slot = slot_count; slot > 0; --slot) free_.push_back(slot - 1);
  for (ResidencyEntry& entry : residency_) entry.store(0, std::memory_order_relaxed);
}

uint32_t BlockCache::SlotOf(uint32_t block) const {
  const uint32_t entry = residency_[block].load(std::memory_order_relaxed) & ~kInFlight;
  return entry == 0 ? kNoBlock : entry - 1;
}

void BlockCache::Pin(uint32_t slot) {
  if (slots_[slot].pins++ == 0) ++pinned_count_;
}

void BlockCache::Insert(uint32_t block, uint32_t slot) {
  slots_[slot] = {.block = block, .pins = slots_[slot].pins, .in_flight = true};
  residency_[block].store((slot + 1) | kInFlight, std::memory_order_relaxed);
  ++inserted_count_;
}

void BlockCache::Evict(uint32_t block) {
  const uint32_t slot = SlotOf(block);
  DCHECK(slots_[slot].pins == 0 && !slots_[slot].in_flight);
  slots_[slot].block = kNoBlock;
  residency_[block].store(0, std::memory_order_relaxed);
  free_.push_back(slot);
  ++evicted_count_;
}

size_t BlockCache::MakeRoom(std::span<const WantedBlock> mask) {
  if (free_.size() >= missing_.size()) return missing_.size();
  candidates_.clear();
  // A cache with a slot for every block never evicts: engines read such blocks without a lease.
  if (slots_.size() < residency_.size()) {
    for (const WantedBlock& w : mask) in_mask_[w.block] = true;
    for (const Slot& slot : slots_) {
      const bool evictable = slot.block != kNoBlock && slot.pins == 0 && !slot.in_flight;
      if (evictable && !in_mask_[slot.block]) candidates_.push_back(slot.block);
    }
    for (const WantedBlock& w : mask) in_mask_[w.block] = false;
  }
  const size_t count = policy_->Exchange(candidates_, missing_, free_.size());
  for (size_t i = 0; i < count; ++i) Evict(candidates_[i]);
  return free_.size();
}

void BlockCache::Acquire(std::span<const WantedBlock> wanted, LeaseMode mode,
                         std::span<Decision> out) {
  CHECK(out.size() == wanted.size());
  const bool select = mode == LeaseMode::kSelect;
  if (select) policy_->BeginMask();
  missing_.clear();
  for (size_t i = 0; i < wanted.size(); ++i) {
    const uint32_t block = wanted[i].block;
    if (select) policy_->Touch(wanted[i]);
    const uint32_t slot = SlotOf(block);
    out[i] = {};
    if (slot == kNoBlock) {
      missing_.push_back(block);
    } else {
      out[i] = {slots_[slot].in_flight ? Outcome::kJoined : Outcome::kResident, slot};
      Pin(slot);
    }
  }
  if (missing_.empty() || !policy_->admits()) return;

  const size_t admitted = select ? MakeRoom(wanted) : std::min(missing_.size(), free_.size());
  missing_.resize(admitted);
  std::sort(missing_.begin(), missing_.end());
  // Both lists are in block order: one walk finds the places of the admitted blocks.
  size_t next = 0;
  for (size_t i = 0; i < wanted.size() && next < admitted; ++i) {
    if (wanted[i].block != missing_[next]) continue;
    ++next;
    const uint32_t slot = free_.back();
    free_.pop_back();
    Insert(wanted[i].block, slot);
    Pin(slot);
    out[i] = {Outcome::kRead, slot};
  }
}

void BlockCache::Unpin(uint32_t slot) {
  CHECK(slot < slots_.size() && slots_[slot].pins > 0);
  if (--slots_[slot].pins > 0) return;
  --pinned_count_;
  if (slots_[slot].block == kNoBlock) free_.push_back(slot);  // Was doomed.
}

void BlockCache::Landed(uint32_t slot) {
  CHECK(slots_[slot].in_flight);
  slots_[slot].in_flight = false;
  // Release: an engine that sees the entry without kInFlight may take the bytes as they are.
  residency_[slots_[slot].block].store(slot + 1, std::memory_order_release);
}

void BlockCache::Failed(uint32_t slot) {
  CHECK(slots_[slot].in_flight);
  residency_[slots_[slot].block].store(0, std::memory_order_relaxed);
  slots_[slot].in_flight = false;
  slots_[slot].block = kNoBlock;
  if (slots_[slot].pins == 0) free_.push_back(slot);
}

void BlockCache::Adopt(uint32_t block, uint32_t slot) {
  const auto position = std::find(free_.begin(), free_.end(), slot);
  CHECK(position != free_.end() && SlotOf(block) == kNoBlock);
  free_.erase(position);
  slots_[slot] = {.block = block};
  residency_[block].store(slot + 1, std::memory_order_relaxed);
}

}  // namespace tidegate
