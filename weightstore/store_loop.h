// The store thread: takes requests from sessions, decides with the caches, orders reads, publishes
// locations. Everything in here runs on that one thread but AddSession(), RemoveSession(), Wake()
// and the constructor.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "weightstore/block_reader.h"
#include "weightstore/cache/block_cache.h"
#include "weightstore/read_watch.h"
#include "weightstore/region.h"
#include "weightstore/session.h"

namespace tidegate {

class StoreLoop {
 public:
  // Called on the store thread when a removed session's memory and staging are no longer in use.
  using SessionEnded = std::function<void(uint32_t session)>;

  // All pointers outlive the loop. caches: one per (layer, kind), layer-major.
  StoreLoop(const PackIndex* pack, Region* region, FlashDevice* device, bool verify,
            std::vector<std::unique_ptr<BlockCache>> caches, StoreStats* stats, SessionEnded ended);

  absl::Status Prepare();  // descriptors for sleeping
  void Run();              // until Stop()
  void Stop();

  void AddSession(std::unique_ptr<Session> session);
  void RemoveSession(uint32_t session);

 private:
  BlockCache& cache(uint32_t layer, UnitKind kind) {
    return *caches_[layer * kUnitKinds + static_cast<uint32_t>(kind)];
  }
  bool TakeControl();
  void Close(Session& session);  // drops its leases; it is not listened to any more
  bool TakeRequests(Session& session);
  // An error ends the session: no engine of ours posts such an entry.
  absl::Status Handle(Session& session, const RingEntry& entry);
  absl::Status CountUses(const RingEntry& entry);
  absl::Status ReadRequest(Session& session, const RingEntry& entry, Lease& lease);
  void Acquire(Session& session, uint32_t lease_index, LeaseMode mode);
  void Grant(Session& session, uint32_t lease_index, LeaseMode mode);
  void RejectAcquire(Session& session, const RingEntry& entry, const absl::Status& status);
  void Release(Session& session, uint32_t lease_index);
  void AdvanceStreams(Session& session);
  void AdvanceStream(Session& session, uint32_t lease_index);
  uint64_t OrderChunk(Session& session, uint32_t lease_index, uint32_t chunk);
  void OnBlock(const BlockOrder& order, const absl::Status& status);
  void OnCacheBlock(const BlockOrder& order, const absl::Status& status);
  void OnStreamBlock(const BlockOrder& order, const absl::Status& status);
  bool FinishSessions();
  bool RunOnce();
  void NotifyEngines();
  void Sleep();
  void UpdateGauges(const BlockCache& cache, uint32_t used_before, uint32_t pinned_before,
                    UnitKind kind);

  const PackIndex* const pack_;
  Region* const region_;
  FlashDevice* const device_;
  std::vector<std::unique_ptr<BlockCache>> caches_;
  StoreStats* const stats_;
  const SessionEnded ended_;
  BlockReader reader_;
  ReadWatch read_watch_;
  UniqueFd epoll_, wake_;
  std::atomic<bool> stopping_ = false;
  std::map<uint32_t, std::unique_ptr<Session>> sessions_;
  uint64_t generation_ = 0;  // of the lease granted last
  LogBurst submission_log_;

  Mutex mutex_;
  std::vector<std::unique_ptr<Session>> added_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> removed_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> control_pending_ = false;
};

}  // namespace tidegate
