#include "base/memory_shedder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/heap.h"
#include "base/memory_limit.h"
#include "base/units.h"

namespace tidegate {
namespace {

constexpr uint64_t kLeastMargin = 64 * kMiB;
// Growth below this is the noise of a process at work, unless hardly more is left.
constexpr uint64_t kLeastStep = 8 * kMiB;
// A fall that counts as one.
constexpr uint64_t kFall = kMiB;

// The first bytes of a connection and its keep-alives are fewer.
constexpr uint64_t kIdleBytes = kKiB;

// How far the process may grow beyond `quiet`, when memory was short already or just became so: a
// quarter of what was left, so that several such steps fit.
uint64_t Step(const MemoryShedder::Reading& quiet) {
  const uint64_t left = std::min(quiet.left, MemoryShedder::Margin(quiet.limit));
  return std::max({left / 4, std::min(left / 2, kLeastStep), kMiB});
}

}  // namespace

uint64_t MemoryShedder::Margin(uint64_t limit) {
  return std::min(std::max(kLeastMargin, limit / 20), limit / 4);
}

uint64_t MemoryShedder::Grown(const Reading& reading) const {
  return quiet_ ? reading.own - std::min(reading.own, quiet_->own) : 0;
}

bool MemoryShedder::IsShort(const Reading& reading) const {
  if (!quiet_ || reading.left >= Margin(reading.limit)) return false;
  const uint64_t step = Step(*quiet_);
  return Grown(reading) >= (shedding_ ? step / 2 : step);
}

void MemoryShedder::Update(const Reading& reading, Clock::time_point now) {
  const bool was_shedding = std::exchange(shedding_, IsShort(reading));
  if (!shedding_) {
    const bool well = reading.left >= Margin(reading.limit);
    if (well || !quiet_ || reading.own < quiet_->own) quiet_ = reading;
  } else if (!was_shedding || reading.own + kFall <= least_own_) {
    least_own_ = reading.own;
    fell_at_ = now;
  } else if (now - fell_at_ >= kPatience) {  // it does not help
    quiet_ = reading;
    shedding_ = false;
  }
}

std::vector<uint64_t> BusiestConnections(std::vector<ConnectionLoad> loads) {
  std::erase_if(loads,
                [](const auto& load) { return load.bytes < kIdleBytes && load.open_calls == 0; });
  std::sort(loads.begin(), loads.end(), [](const auto& a, const auto& b) {
    return a.bytes != b.bytes ? a.bytes > b.bytes : a.open_calls > b.open_calls;
  });
  uint64_t all = 0, taken = 0;
  for (const ConnectionLoad& load : loads) all += load.bytes;
  std::vector<uint64_t> busiest;
  for (const ConnectionLoad& load : loads) {
    if (busiest.size() == kConnectionsAtOnce || (!busiest.empty() && taken >= all - taken)) break;
    busiest.push_back(load.id);
    taken += load.bytes;
  }
  return busiest;
}

std::optional<MemoryShedder::Reading> MemoryWatch::Read() const {
  const uint64_t own = ReadOwnMemory();
  if (limit_ > 0) return MemoryShedder::Reading{limit_, limit_ - std::min(limit_, own), own};
  const std::optional<GroupMemory> group = ReadGroupMemory();
  if (!group) return std::nullopt;
  return MemoryShedder::Reading{group->limit, group->left, own};
}

bool MemoryWatch::Due(Clock::time_point now) {
  if (now - looked_at_ < kInterval) return false;
  looked_at_ = now;
  std::optional<MemoryShedder::Reading> reading = Read();
  if (reading && shedder_.IsShort(*reading)) {
    // What calls that are over have left in the heap costs nobody a connection.
    ReturnFreeHeap(kMiB);
    reading = Read();
  }
  if (!reading) return false;
  last_ = *reading;
  shedder_.Update(last_, now);
  return shedder_.shedding();
}

std::string MemoryWatch::Describe() const {
  return absl::StrCat(FormatBytes(last_.left), " are left of ", FormatBytes(last_.limit),
                      ", this process has ", FormatBytes(last_.own), ", ",
                      FormatBytes(shedder_.Grown(last_)), " more than when all was well");
}

}  // namespace tidegate
