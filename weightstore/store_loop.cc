#include "weightstore/store_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/futex.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

// Polls of everything before the thread sleeps: about ten microseconds, the price of one wake-up.
constexpr int kSpinsBeforeSleep = 200;
constexpr int kSleepMs = 1000;

}  // namespace

StoreLoop::StoreLoop(const PackIndex* pack, Region* region, FlashDevice* device, bool verify,
                     std::vector<std::unique_ptr<BlockCache>> caches, StoreStats* stats,
                     SessionEnded ended)
    : pack_(pack),
      region_(region),
      device_(device),
      caches_(std::move(caches)),
      stats_(stats),
      ended_(std::move(ended)),
      reader_(device, pack, verify, stats),
      read_watch_(stats) {}

absl::Status StoreLoop::Prepare() {
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.valid() || !wake_.valid()) return absl::ErrnoToStatus(errno, "epoll");
  for (const int fd : {wake_.get(), device_->event_fd()}) {
    epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return absl::ErrnoToStatus(errno, "epoll_ctl");
    }
  }
  return absl::OkStatus();
}

void StoreLoop::Stop() {
  stopping_ = true;
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof(one)) < 0) LogWarning("store wake: ", strerror(errno));
}

void StoreLoop::AddSession(std::unique_ptr<Session> session) {
  {
    MutexLock lock(mutex_);
    added_.push_back(std::move(session));
  }
  control_pending_ = true;
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof(one)) < 0) LogWarning("store wake: ", strerror(errno));
}

void StoreLoop::RemoveSession(uint32_t session) {
  {
    MutexLock lock(mutex_);
    removed_.push_back(session);
  }
  control_pending_ = true;
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof(one)) < 0) LogWarning("store wake: ", strerror(errno));
}

bool StoreLoop::TakeControl() {
  if (!control_pending_.exchange(false)) return false;
  std::vector<std::unique_ptr<Session>> added;
  std::vector<uint32_t> removed;
  {
    MutexLock lock(mutex_);
    added.swap(added_);
    removed.swap(removed_);
  }
  for (std::unique_ptr<Session>& session : added) {
    // Edge-triggered, because we must never read it: the engine shares the descriptor's flags,
    // could make it blocking, empty it first and so hang this thread. Every write is a new edge.
    epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.fd = session->kick_fd()}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, session->kick_fd(), &event) != 0) {
      LogError("cannot watch a session: ", strerror(errno));
    }
    ++stats_->engines_attached;
    ++stats_->attaches_total;
    const uint32_t index = session->index();
    sessions_[index] = std::move(session);
  }
  for (const uint32_t index : removed) {
    const auto at = sessions_.find(index);
    if (at == sessions_.end()) continue;
    at->second->detached = true;
    Close(*at->second);
  }
  return true;
}

void StoreLoop::Close(Session& session) {
  if (session.closing) return;
  session.closing = true;
  --stats_->engines_attached;
  for (uint32_t lease = 0; lease < kLeasesPerSession; ++lease) {
    if (!session.leases[lease].active) continue;
    ++stats_->leases_dropped;
    Release(session, lease);
  }
}

bool StoreLoop::FinishSessions() {
  bool any = false;
  for (auto at = sessions_.begin(); at != sessions_.end();) {
    Session& session = *at->second;
    if (!session.detached || !session.staging.idle()) {
      ++at;
      continue;
    }
    const uint32_t index = at->first;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, session.kick_fd(), nullptr);
    at = sessions_.erase(at);
    ended_(index);
    any = true;
  }
  return any;
}

bool StoreLoop::TakeRequests(Session& session) {
  if (session.closing) return false;
  bool any = false;
  RingEntry entry;
  // At most one ring per round: an engine that never stops posting must not starve the others.
  absl::Status kept;  // the rules
  for (uint32_t n = 0; n < kRingEntries && kept.ok() && session.TakeRequest(entry); ++n) {
    kept = Handle(session, entry);
    any = true;
  }
  if (session.ring_broken()) kept = absl::InvalidArgumentError("more requests than the ring holds");
  if (!kept.ok()) {
    LogError("engine of session ", session.index(), " broke the rules: ", kept.message(),
             "; it is served no more");
    // Its index stays taken until it disconnects: the disconnection must not hit a successor.
    Close(session);
  }
  return any;
}

absl::Status StoreLoop::Handle(Session& session, const RingEntry& entry) {
  if (entry.lease >= kLeasesPerSession) return absl::OkStatus();
  Lease& lease = session.leases[entry.lease];
  switch (static_cast<RingOp>(entry.op)) {
    case RingOp::kRelease:
      if (lease.active && lease.serial == entry.serial) Release(session, entry.lease);
      break;
    case RingOp::kCount:
      return CountUses(entry);
    case RingOp::kAcquire:
      if (const absl::Status valid = ReadRequest(session, entry, lease); valid.ok()) {
        Acquire(session, entry.lease, static_cast<LeaseMode>(entry.mode));
      } else {
        RejectAcquire(session, entry, valid);
      }
      break;
  }
  return absl::OkStatus();
}

absl::Status StoreLoop::CountUses(const RingEntry& entry) {
  const bool select = entry.mode == static_cast<uint32_t>(LeaseMode::kSelect);
  const uint64_t most = UnitsOfPass(pack_->geometry);
  if (entry.serial > most || (!select && entry.mode != static_cast<uint32_t>(LeaseMode::kStream))) {
    return absl::InvalidArgumentError(absl::StrCat("it counts ", entry.serial, " units in mode ",
                                                   entry.mode, ", a pass has ", most));
  }
  stats_->hit_units[select ? 0 : 1] += entry.serial;
  return absl::OkStatus();
}

// Copies the request out of shared memory and checks it: what is checked is what is used.
absl::Status StoreLoop::ReadRequest(Session& session, const RingEntry& entry, Lease& lease) {
  if (lease.active) return absl::FailedPreconditionError("lease is in use");
  if (entry.layer >= pack_->geometry.layer_count || entry.kind >= kUnitKinds ||
      (entry.mode != static_cast<uint32_t>(LeaseMode::kSelect) &&
       entry.mode != static_cast<uint32_t>(LeaseMode::kStream))) {
    return absl::InvalidArgumentError("lease request names no layer, kind or mode of this model");
  }
  const KindGeometry& kind = pack_->geometry.kinds[entry.kind];
  if (entry.block_count == 0 || entry.block_count > kind.block_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("lease request for ", entry.block_count, " of ", kind.block_count, " blocks"));
  }
  lease.wanted.assign(session.wanted(entry.lease), session.wanted(entry.lease) + entry.block_count);
  uint32_t next = 0;
  for (const WantedBlock& w : lease.wanted) {
    if (w.block < next || w.block >= kind.block_count ||
        w.units > uint64_t{kind.units_per_block} * kRowsOfPass) {
      return absl::InvalidArgumentError(absl::StrCat("lease request names block ", w.block, " of ",
                                                     kind.block_count, " out of order or range"));
    }
    next = w.block + 1;
  }
  lease.serial = entry.serial;
  lease.layer = entry.layer;
  lease.kind = static_cast<UnitKind>(entry.kind);
  return absl::OkStatus();
}

void StoreLoop::RejectAcquire(Session& session, const RingEntry& entry,
                              const absl::Status& status) {
  LeaseHeader& header = session.lease_header(entry.lease);
  header.error_code.store(0, std::memory_order_relaxed);
  session.SetError(entry.lease, status);
  header.hit_blocks = header.miss_blocks = 0;  // Of a granted lease they are never both 0.
  header.granted_serial.store(entry.serial, std::memory_order_release);
  session.Notify(entry.lease);
}

void StoreLoop::UpdateGauges(const BlockCache& cache, uint32_t used_before, uint32_t pinned_before,
                             UnitKind kind) {
  const int64_t bytes = pack_->geometry.kind(kind).block_bytes;
  const int64_t used = static_cast<int64_t>(cache.used_count()) - used_before;
  const int64_t pinned = static_cast<int64_t>(cache.pinned_count()) - pinned_before;
  stats_->used_bytes.fetch_add(static_cast<uint64_t>(used * bytes), std::memory_order_relaxed);
  stats_->pinned_bytes.fetch_add(static_cast<uint64_t>(pinned * bytes), std::memory_order_relaxed);
}

void StoreLoop::Acquire(Session& session, uint32_t lease_index, LeaseMode mode) {
  Lease& lease = session.leases[lease_index];
  BlockCache& blocks = cache(lease.layer, lease.kind);
  lease.active = true;
  lease.generation = ++generation_;
  lease.decisions.resize(lease.wanted.size());
  lease.published.assign(lease.wanted.size(), false);
  lease.arrived = 0;
  lease.bypass_left = 0;
  lease.next_index = 0;
  const uint32_t used = blocks.used_count(), pinned = blocks.pinned_count();
  const uint64_t evicted = blocks.evicted_count(), inserted = blocks.inserted_count();
  blocks.Acquire(lease.wanted, mode, lease.decisions);
  stats_->evicted_blocks += blocks.evicted_count() - evicted;
  stats_->inserted_blocks += blocks.inserted_count() - inserted;
  UpdateGauges(blocks, used, pinned, lease.kind);
  Grant(session, lease_index, mode);
}

// Publishes what is resident, orders what was admitted, counts what must stream.
void StoreLoop::Grant(Session& session, uint32_t lease_index, LeaseMode mode) {
  Lease& lease = session.leases[lease_index];
  LeaseHeader& header = session.lease_header(lease_index);
  uint32_t hit_units = 0, miss_units = 0, hit_blocks = 0, reads = 0, admitted = 0;
  for (uint32_t i = 0; i < lease.wanted.size(); ++i) {
    const BlockCache::Decision& decision = lease.decisions[i];
    const bool hit = decision.outcome == BlockCache::Outcome::kResident ||
                     decision.outcome == BlockCache::Outcome::kJoined;
    (hit ? hit_units : miss_units) += lease.wanted[i].units;
    hit_blocks += hit;
    if (decision.outcome == BlockCache::Outcome::kResident) {
      session.Publish(lease_index, i,
                      kLocationWasResident |
                          SlotOffset(region_->header(), lease.layer, lease.kind, decision.slot));
    } else if (decision.outcome == BlockCache::Outcome::kRead) {
      ++admitted;
      reads += reader_.Order({.layer = lease.layer,
                              .kind = lease.kind,
                              .block = lease.wanted[i].block,
                              .purpose = ReadPurpose::kCache,
                              .target = region_->slot(lease.layer, lease.kind, decision.slot),
                              .place = decision.slot});
    } else if (decision.outcome == BlockCache::Outcome::kBypass) {
      ++lease.bypass_left;
    }
  }
  const uint32_t miss_blocks = admitted + lease.bypass_left;
  header.hit_units = hit_units;
  header.miss_units = miss_units;
  header.hit_blocks = hit_blocks;
  header.miss_blocks = miss_blocks;
  header.flash_bytes = uint64_t{miss_blocks} * pack_->geometry.kind(lease.kind).block_bytes;
  header.flash_reads.store(reads, std::memory_order_relaxed);
  header.error_code.store(0, std::memory_order_relaxed);
  header.granted_serial.store(lease.serial, std::memory_order_release);
  lease.dirty = true;
  const size_t by_mode = mode == LeaseMode::kSelect ? 0 : 1;
  stats_->hit_units[by_mode] += hit_units;
  stats_->miss_units[by_mode] += miss_units;
  stats_->bypassed_blocks += lease.bypass_left;
  ++stats_->leases_granted[by_mode];
}

void StoreLoop::Release(Session& session, uint32_t lease_index) {
  Lease& lease = session.leases[lease_index];
  BlockCache& blocks = cache(lease.layer, lease.kind);
  const uint32_t used = blocks.used_count(), pinned = blocks.pinned_count();
  for (const BlockCache::Decision& decision : lease.decisions) {
    if (decision.outcome != BlockCache::Outcome::kBypass) blocks.Unpin(decision.slot);
  }
  UpdateGauges(blocks, used, pinned, lease.kind);
  lease.active = false;
  lease.bypass_left = 0;
  for (const StagedChunk& staged : lease.staged) {
    session.staging.GiveBack(lease_index, staged.chunk);
  }
  lease.staged.clear();
}

// Oldest lease first: the engine uses them up in the order in which it acquired them.
void StoreLoop::AdvanceStreams(Session& session) {
  uint32_t order[kLeasesPerSession];
  std::iota(std::begin(order), std::end(order), 0u);
  std::sort(std::begin(order), std::end(order), [&](uint32_t a, uint32_t b) {
    return session.leases[a].generation < session.leases[b].generation;
  });
  for (const uint32_t lease : order) AdvanceStream(session, lease);
}

// Frees the staging of what the engine has consumed and orders the next streamed blocks into it.
void StoreLoop::AdvanceStream(Session& session, uint32_t lease_index) {
  Lease& lease = session.leases[lease_index];
  if (!lease.active || (lease.bypass_left == 0 && lease.staged.empty())) return;
  const uint32_t consumed =
      session.lease_header(lease_index).consumed.load(std::memory_order_seq_cst);
  while (!lease.staged.empty() && lease.staged.front().end_index <= consumed) {
    session.staging.GiveBack(lease_index, lease.staged.front().chunk);
    lease.staged.pop_front();
  }
  uint64_t reads = 0;
  while (lease.bypass_left > 0) {
    const std::optional<uint32_t> chunk = session.staging.Take(lease_index);
    if (!chunk.has_value()) break;
    reads += OrderChunk(session, lease_index, *chunk);
  }
  if (reads > 0) session.lease_header(lease_index).flash_reads.fetch_add(reads);
}

// Orders the lease's next streamed blocks into a chunk; returns how many device reads they begin.
uint64_t StoreLoop::OrderChunk(Session& session, uint32_t lease_index, uint32_t chunk) {
  Lease& lease = session.leases[lease_index];
  const uint32_t block_bytes = pack_->geometry.kind(lease.kind).block_bytes;
  std::byte* target = region_->data() + StagingOffset(region_->header(), session.index(), 0) +
                      session.staging.Offset(chunk);
  uint64_t reads = 0;
  const auto places = static_cast<uint32_t>(session.staging.chunk_bytes() / block_bytes);
  const uint32_t count = std::min(places, lease.bypass_left);
  for (uint32_t n = 0; n < count; ++lease.next_index) {
    if (lease.decisions[lease.next_index].outcome != BlockCache::Outcome::kBypass) continue;
    ++n;
    session.staging.ReadBegan(chunk);
    reads += reader_.Order({.layer = lease.layer,
                            .kind = lease.kind,
                            .block = lease.wanted[lease.next_index].block,
                            .purpose = ReadPurpose::kStream,
                            .target = target,
                            .place = chunk,
                            .session = session.index(),
                            .lease = lease_index,
                            .index = lease.next_index,
                            .generation = lease.generation});
    target += block_bytes;
  }
  lease.bypass_left -= count;
  lease.staged.push_back({.chunk = chunk, .end_index = lease.next_index});
  return reads;
}

void StoreLoop::OnBlock(const BlockOrder& order, const absl::Status& status) {
  if (order.purpose == ReadPurpose::kCache) {
    OnCacheBlock(order, status);
  } else {
    OnStreamBlock(order, status);
  }
}

// A block landed in a slot: tell every lease that waits for it.
void StoreLoop::OnCacheBlock(const BlockOrder& order, const absl::Status& status) {
  BlockCache& blocks = cache(order.layer, order.kind);
  const uint32_t used = blocks.used_count(), pinned = blocks.pinned_count();
  if (status.ok()) {
    blocks.Landed(order.place);
  } else {
    blocks.Failed(order.place);
  }
  UpdateGauges(blocks, used, pinned, order.kind);
  const uint64_t location = SlotOffset(region_->header(), order.layer, order.kind, order.place);
  for (auto& [session_index, session] : sessions_) {
    for (uint32_t l = 0; l < kLeasesPerSession; ++l) {
      Lease& lease = session->leases[l];
      if (!lease.active || lease.layer != order.layer || lease.kind != order.kind) continue;
      const auto at =
          std::lower_bound(lease.wanted.begin(), lease.wanted.end(), order.block,
                           [](const WantedBlock& w, uint32_t block) { return w.block < block; });
      if (at == lease.wanted.end() || at->block != order.block) continue;
      const auto index = static_cast<uint32_t>(at - lease.wanted.begin());
      const BlockCache::Decision& decision = lease.decisions[index];
      if (lease.published[index] || decision.outcome == BlockCache::Outcome::kBypass ||
          decision.slot != order.place) {
        continue;
      }
      if (!status.ok()) session->SetError(l, status);
      const bool joined = decision.outcome == BlockCache::Outcome::kJoined;
      session->Publish(
          l, index,
          (joined ? kLocationWasResident : 0) | (status.ok() ? location : kLocationFailed));
    }
  }
}

void StoreLoop::OnStreamBlock(const BlockOrder& order, const absl::Status& status) {
  const auto at = sessions_.find(order.session);
  if (at == sessions_.end()) return;
  Session& session = *at->second;
  session.staging.ReadEnded(order.place);
  Lease& lease = session.leases[order.lease];
  if (!lease.active || lease.generation != order.generation) return;  // Released meanwhile.
  if (!status.ok()) session.SetError(order.lease, status);
  const auto offset = static_cast<uint64_t>(order.target - region_->data());
  session.Publish(order.lease, order.index,
                  kLocationStreamed | (status.ok() ? offset : kLocationFailed));
}

void StoreLoop::NotifyEngines() {
  for (auto& [index, session] : sessions_) {
    for (uint32_t lease = 0; lease < kLeasesPerSession; ++lease) {
      if (session->leases[lease].dirty) session->Notify(lease);
    }
  }
}

bool StoreLoop::RunOnce() {
  bool worked = TakeControl();
  for (auto& [index, session] : sessions_) {
    worked |= TakeRequests(*session);
    AdvanceStreams(*session);
  }
  if (const absl::Status submitted = reader_.Submit(); !submitted.ok()) {
    submission_log_.Warning("flash submission: ", submitted.message(), "; trying again");
  }
  worked |= reader_.Poll([this](const BlockOrder& order, const absl::Status& status) {
    OnBlock(order, status);
  }) > 0;
  if (const auto now = ReadWatch::Clock::now(); read_watch_.Due(now)) {
    read_watch_.Look(reader_.OldestRead(), now);
  }
  NotifyEngines();
  worked |= FinishSessions();
  return worked;
}

void StoreLoop::Run() {
  int idle_rounds = 0;
  while (!stopping_) {
    if (RunOnce()) {
      idle_rounds = 0;
    } else if (++idle_rounds < kSpinsBeforeSleep) {
      CpuRelax();
    } else {
      Sleep();
      idle_rounds = 0;
    }
  }
  // Memory that reads target goes away with the region: wait for what is out.
  while (!reader_.idle()) {
    if (!RunOnce()) Sleep();
  }
}

void StoreLoop::Sleep() {
  for (auto& [index, session] : sessions_) {
    session->header().store_waiting.store(1, std::memory_order_seq_cst);
  }
  // Anything that came between the last look and the flag: an engine that saw the flag kicks us.
  if (!RunOnce()) {
    epoll_event events[8];
    const bool reads_out = stats_->flash_in_flight > 0;
    const int count =
        ::epoll_wait(epoll_.get(), events, 8,
                     reads_out ? static_cast<int>(ReadWatch::kInterval.count()) : kSleepMs);
    for (int i = 0; i < count; ++i) {
      uint64_t drained;
      if (events[i].data.fd != wake_.get()) continue;  // Reap() clears the device's.
      if (::read(events[i].data.fd, &drained, sizeof(drained)) < 0 && errno != EAGAIN) {
        LogWarning("eventfd: ", strerror(errno));
      }
    }
  }
  for (auto& [index, session] : sessions_) {
    session->header().store_waiting.store(0, std::memory_order_relaxed);
  }
}

}  // namespace tidegate
