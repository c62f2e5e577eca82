#include "weightstore/store.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/attach_server.h"
#include "weightstore/budget.h"
#include "weightstore/read_watch.h"
#include "weightstore/region.h"
#include "weightstore/store_loop.h"

namespace tidegate {
namespace {

// Static weights are read in pieces of this size, several at a time.
constexpr uint64_t kStaticReadBytes = kMiB;

}  // namespace

class Store::Impl final : public AttachDelegate {
 public:
  static absl::StatusOr<std::unique_ptr<Impl>> Create(const StoreOptions& options);
  ~Impl() override { Stop(); }

  absl::Status Start();
  void Stop();

  absl::StatusOr<AttachGrant> OnAttach(const store::v1::AttachRequest& request) override;
  void OnDetach(uint32_t session) override {
    LogInfo("the engine of session ", session, " has gone");
    loop_->RemoveSession(session);
  }
  void OnRefused() override { ++stats_.attaches_refused; }

  StoreInfo info_;
  StoreStats stats_;

 private:
  explicit Impl(const StoreOptions& options) : options_(options) {}

  absl::Status OpenPack();
  absl::Status OpenRegion(const RegionPlan& plan);
  absl::Status OpenDevice();
  absl::Status LoadStatics();
  absl::Status ReadStatics();
  absl::Status VerifyStatics() const;
  absl::Status MakeLoop();
  // Blocks of an earlier store that were not taken over, by reason.
  struct Adoption {
    uint64_t in_flight = 0, damaged = 0, impossible = 0;
  };
  void AdoptBlocks(BlockCache& cache, uint32_t layer, UnitKind kind,
                   const std::vector<uint32_t>& entries, Adoption& adoption);
  void FillInfo(const RegionPlan& plan);

  const StoreOptions options_;
  UniqueFd pack_fd_, session_pack_fds_[kMaxSessions];
  PackIndex pack_;
  Region region_;
  bool statics_adopted_ = false;
  std::unique_ptr<FlashDevice> device_;
  std::unique_ptr<StoreLoop> loop_;
  std::unique_ptr<AttachServer> attach_server_;
  std::thread thread_;
  bool started_ = false;

  Mutex mutex_;
  uint32_t sessions_in_use_ ABSL_GUARDED_BY(mutex_) = 0;  // bit per session index
};

absl::StatusOr<std::unique_ptr<Store::Impl>> Store::Impl::Create(const StoreOptions& options) {
  auto impl = std::unique_ptr<Impl>(new Impl(options));
  RETURN_IF_ERROR(MakeEvictionPolicy(options.policy, 1).status());
  RETURN_IF_ERROR(impl->OpenPack());
  std::optional<double> input_share = options.input_share;
  const double profile_share = impl->pack_.manifest.profile().conditions().input_share();
  const bool follow = options.follow_profile && !options.cache_fraction;
  if (profile_share > 0 && follow && !input_share) {
    input_share = profile_share;
    LogInfo("input units have ", profile_share, " of the slots' bytes, as the pack's profile says");
  } else if (profile_share > 0) {
    LogInfo("the pack's profile, which gives input units ", profile_share,
            " of the slots' bytes, is not followed: ",
            options.input_share ? "--input-share is given" : "this command measures without it");
  }
  ASSIGN_OR_RETURN(const RegionPlan plan,
                   PlanRegion(impl->pack_, {.memory_budget_bytes = options.memory_budget_bytes,
                                            .engine_reserve_bytes = options.engine_reserve_bytes,
                                            .staging_bytes = options.staging_bytes,
                                            .cache = options.policy != "none",
                                            .cache_fraction = options.cache_fraction,
                                            .input_share = input_share}));
  // The socket before the region: "another store listens here" is the clearer message.
  ASSIGN_OR_RETURN(impl->attach_server_,
                   AttachServer::Create(options.socket_path, options.allowed_uids, impl.get()));
  RETURN_IF_ERROR(impl->OpenRegion(plan));
  RETURN_IF_ERROR(impl->OpenDevice());
  RETURN_IF_ERROR(impl->LoadStatics());
  RETURN_IF_ERROR(impl->MakeLoop());
  impl->FillInfo(plan);
  impl->region_.Publish();
  ::malloc_trim(0);  // what reading the manifest took
  return impl;
}

absl::Status Store::Impl::OpenPack() {
  ASSIGN_OR_RETURN(pack_fd_, OpenFile(options_.pack_path));
  ASSIGN_OR_RETURN(pack_, ReadPackIndex(pack_fd_.get(), options_.pack_path));
  return absl::OkStatus();
}

absl::Status Store::Impl::OpenRegion(const RegionPlan& plan) {
  const RegionHeader header = MakeRegionHeader(pack_.geometry, pack_.header.uuid, plan);
  ASSIGN_OR_RETURN(region_, Region::Open(options_.region_path, header));
  if (!options_.keep_region) region_.RemoveAtEnd();
  // Also into a region that was taken over: what another process left is not trusted.
  std::memcpy(region_.data() + header.manifest_offset, pack_.manifest_bytes.data(),
              pack_.manifest_bytes.size());
  // Engines read it there; what the store has no use for, a vocabulary above all, is not kept
  // twice.
  pack_.manifest_bytes = std::string();
  pack_.manifest.clear_tokenizer();
  pack_.manifest.clear_chat_template();
  // Weights that the kernel swaps out or drops are read twice: keep them where they are.
  if (::mlock(region_.data(), region_.bytes().size()) != 0) {
    LogInfo(
        "region is not locked into memory (memlock limit); raise it if this host swaps, as "
        "`tidegate doctor` describes");
  }
  return absl::OkStatus();
}

absl::Status Store::Impl::OpenDevice() {
  const PackGeometry& geometry = pack_.geometry;
  const bool pages = std::ranges::all_of(
      geometry.kinds, [](const KindGeometry& kind) { return kind.block_bytes % kPageBytes == 0; });
  ASSIGN_OR_RETURN(
      device_,
      OpenFlashDevice({.path = options_.pack_path,
                       .queue_depth = options_.queue_depth,
                       .backend = options_.flash_backend,
                       .model = options_.flash_model,
                       .alignment = static_cast<uint32_t>(pages ? kPageBytes : kSectorBytes),
                       .buffer = region_.bytes()}));
  return absl::OkStatus();
}

absl::Status Store::Impl::VerifyStatics() const {
  const std::byte* statics = region_.data() + region_.header().static_offset;
  for (const store::v1::StaticTensor& tensor : pack_.manifest.static_tensors()) {
    if (tensor.offset() >= region_.header().static_bytes) continue;  // stays on flash
    if (Checksum(statics + tensor.offset(), tensor.bytes()) != tensor.xxh3()) {
      return absl::DataLossError(absl::StrCat(options_.pack_path, ": static tensor ", tensor.name(),
                                              ": checksum differs; pack the model again"));
    }
  }
  return absl::OkStatus();
}

absl::Status Store::Impl::LoadStatics() {
  // An earlier store's copy is as good as the file's if it still agrees with the checksums.
  if (region_.adopted()) {
    const absl::Status left = VerifyStatics();
    statics_adopted_ = left.ok();
    LogInfo("taking over the region that an earlier store left; its static weights ",
            left.ok() ? "are good" : "are read again: a checksum differs");
  }
  if (statics_adopted_) return absl::OkStatus();
  RETURN_IF_ERROR(ReadStatics());
  return options_.verify_checksums ? VerifyStatics() : absl::OkStatus();
}

absl::Status Store::Impl::ReadStatics() {
  std::byte* statics = region_.data() + region_.header().static_offset;
  // The section starts on a page in file and region, and both are padded to pages.
  const uint64_t bytes = RoundUp(region_.header().static_bytes, kPageBytes);
  std::vector<FlashCompletion> completions;
  uint64_t next = 0;
  bool silent = false;
  auto last_read = std::chrono::steady_clock::now();
  while (next < bytes || device_->in_flight() > 0) {
    for (; next < bytes && device_->free_count() > 0; next += kStaticReadBytes) {
      const FlashSegment segment = {
          statics + next, static_cast<uint32_t>(std::min(kStaticReadBytes, bytes - next))};
      device_->Enqueue({.offset = pack_.header.static_offset + next, .segments = {&segment, 1}});
    }
    RETURN_IF_ERROR(device_->Submit());
    completions.clear();
    device_->Reap(completions);
    const auto now = std::chrono::steady_clock::now();
    if (completions.empty()) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (!silent && now - last_read >= ReadWatch::kStallTime) {
        silent = true;
        LogWarning("flash: static weights have been awaited for 5 s: the drive of the pack hangs");
      }
    } else {
      last_read = now;
      silent = false;
    }
    for (const FlashCompletion& completion : completions) {
      if (!completion.status.ok()) {
        const absl::Status failed = completion.status;  // Reap() below moves the completions.
        while (device_->in_flight() > 0) device_->Reap(completions);
        return absl::DataLossError(absl::StrCat(
            options_.pack_path, ": cannot read the static weights: ", failed.message(),
            absl::IsOutOfRange(failed) ? "; pack the model again" : "; check the drive"));
      }
    }
  }
  stats_.flash_read_bytes[2] += bytes;
  return absl::OkStatus();
}

// Takes over blocks that an earlier store left in the region, as far as their checksums agree.
void Store::Impl::AdoptBlocks(BlockCache& cache, uint32_t layer, UnitKind kind,
                              const std::vector<uint32_t>& entries, Adoption& adoption) {
  std::vector<bool> taken(cache.slot_count(), false);
  const uint32_t block_bytes = pack_.geometry.kind(kind).block_bytes;
  for (uint32_t block = 0; block < entries.size(); ++block) {
    const uint32_t entry = entries[block];
    if (entry == 0) continue;
    if ((entry & kInFlight) != 0) {
      ++adoption.in_flight;
      continue;
    }
    const uint32_t slot = entry - 1;
    if (slot >= cache.slot_count() || taken[slot]) {
      ++adoption.impossible;
      continue;
    }
    const uint64_t expected = pack_.block_checksums[pack_.geometry.BlockIndex(layer, kind, block)];
    if (Checksum(region_.slot(layer, kind, slot), block_bytes) != expected) {
      ++adoption.damaged;
      continue;
    }
    taken[slot] = true;
    cache.Adopt(block, slot);
    stats_.used_bytes += block_bytes;
    ++info_.warm_blocks;
  }
}

absl::Status Store::Impl::MakeLoop() {
  std::vector<std::unique_ptr<BlockCache>> caches;
  Adoption adoption;
  for (uint32_t layer = 0; layer < pack_.geometry.layer_count; ++layer) {
    for (const UnitKind kind : {UnitKind::kInput, UnitKind::kHidden}) {
      const std::span<ResidencyEntry> residency = region_.residency(layer, kind);
      std::vector<uint32_t> left_behind;
      if (region_.adopted()) {
        for (const ResidencyEntry& entry : residency) left_behind.push_back(entry.load());
      }
      const RegionKind& k = region_.header().kinds[static_cast<uint32_t>(kind)];
      ASSIGN_OR_RETURN(auto policy, MakeEvictionPolicy(options_.policy, k.block_count));
      caches.push_back(
          std::make_unique<BlockCache>(residency, k.slots_per_layer, std::move(policy)));
      AdoptBlocks(*caches.back(), layer, kind, left_behind, adoption);
      stats_.capacity_bytes += uint64_t{k.slots_per_layer} * k.block_bytes;
    }
  }
  if (region_.adopted()) {
    LogInfo("taken over: ", info_.warm_blocks, " blocks; dropped: ", adoption.damaged,
            " whose checksum differs, ", adoption.in_flight, " that were being read, ",
            adoption.impossible, " in places that cannot be");
  }
  stats_.streamed_model_bytes = pack_.geometry.blocks_bytes();
  loop_ = std::make_unique<StoreLoop>(&pack_, &region_, device_.get(), options_.verify_checksums,
                                      std::move(caches), &stats_, [this](uint32_t session) {
                                        MutexLock lock(mutex_);
                                        sessions_in_use_ &= ~(1u << session);
                                      });
  return loop_->Prepare();
}

void Store::Impl::FillInfo(const RegionPlan& plan) {
  const RegionHeader& header = region_.header();
  info_.pack_uuid = UuidText(pack_.header.uuid);
  info_.model_name = pack_.manifest.model_name();
  info_.architecture = pack_.manifest.architecture();
  info_.unit_encoding =
      std::string(UnitEncodingName(static_cast<UnitEncoding>(pack_.manifest.unit_encoding())));
  info_.policy = options_.policy;
  info_.flash = device_->info();
  info_.region_bytes = header.region_bytes;
  info_.huge_page_bytes = region_.huge_bytes();
  info_.static_bytes = plan.static_bytes;
  info_.static_on_flash_bytes = pack_.header.static_bytes - plan.static_bytes;
  info_.slot_bytes = stats_.capacity_bytes;
  info_.streamed_model_bytes = pack_.geometry.blocks_bytes();
  info_.memory_budget_bytes = options_.memory_budget_bytes;
  info_.engine_reserve_bytes = plan.engine_reserve_bytes;
  info_.staging_bytes = plan.staging_bytes * kMaxSessions * kLeasesPerSession;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    info_.slots_per_layer[k] = plan.slots_per_layer[k];
    info_.blocks_per_layer[k] = pack_.geometry.kinds[k].block_count;
  }
}

absl::Status Store::Impl::Start() {
  started_ = true;
  thread_ = std::thread([this] { loop_->Run(); });
  attach_server_->Start();
  return absl::OkStatus();
}

void Store::Impl::Stop() {
  if (attach_server_ != nullptr) attach_server_->Stop();
  // Before the wait for reads, which a drive may never end; and after a Create() that failed
  // half-way. A region that reads may still write into is not kept.
  if (options_.keep_region) {
    region_.RemoveAtEnd();
  } else {
    region_.Unlink();
  }
  if (started_) {
    loop_->Stop();
    thread_.join();
    started_ = false;
  }
}

absl::StatusOr<AttachGrant> Store::Impl::OnAttach(const store::v1::AttachRequest& request) {
  uint32_t index = 0;
  {
    MutexLock lock(mutex_);
    index = static_cast<uint32_t>(std::countr_one(sessions_in_use_));
    if (index >= kMaxSessions) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the store already serves ", kMaxSessions, " engines; stop one or start another store"));
    }
    sessions_in_use_ |= 1u << index;
  }
  // An open file of its own: an engine may change the flags of what it is given.
  auto pack_fd = UniqueFd::Open(absl::StrCat("/proc/self/fd/", pack_fd_.get()), O_RDONLY);
  if (!pack_fd.ok()) {
    MutexLock lock(mutex_);
    sessions_in_use_ &= ~(1u << index);
    return pack_fd.status();
  }
  // Engines read single rows of a static tensor that found no room.
  ::posix_fadvise(pack_fd->get(), 0, 0, POSIX_FADV_RANDOM);
  session_pack_fds_[index] = *std::move(pack_fd);
  const PackGeometry& geometry = pack_.geometry;
  auto session = Session::Create(
      index, SessionMaxBlocks(geometry),
      StagingPool(region_.header().staging_bytes * kLeasesPerSession,
                  std::max(geometry.kinds[0].block_bytes, geometry.kinds[1].block_bytes)));
  if (!session.ok()) {
    MutexLock lock(mutex_);
    sessions_in_use_ &= ~(1u << index);
    return session.status();
  }
  AttachGrant grant = {.session = index,
                       .region_fd = region_.read_only_fd(),
                       .session_fd = (*session)->memory_fd(),
                       .kick_fd = (*session)->kick_fd(),
                       .pack_fd = session_pack_fds_[index].get(),
                       .region_bytes = region_.header().region_bytes,
                       .session_bytes = (*session)->memory_bytes()};
  LogInfo("engine ", Quoted(request.engine_name(), 64), " attached as session ", index);
  loop_->AddSession(*std::move(session));
  return grant;
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Create(const StoreOptions& options) {
  ASSIGN_OR_RETURN(auto impl, Impl::Create(options));
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

absl::Status Store::Start() { return impl_->Start(); }
void Store::Stop() { impl_->Stop(); }
const StoreInfo& Store::info() const { return impl_->info_; }
const StoreStats& Store::stats() const { return impl_->stats_; }

}  // namespace tidegate
