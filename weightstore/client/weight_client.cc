#include "weightstore/client/weight_client.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/futex.h"
#include "base/status_macros.h"
#include "proto/store/v1/manifest_names.h"
#include "proto/store/v1/static_tensors.h"
#include "weightstore/client/attach.h"

namespace tidegate {
namespace {

// Looks at the shared words before sleeping: a few microseconds, less than a sleep and a wake cost.
constexpr int kSpinsBeforeSleep = 300;
// Between two questions to an idle store whether it still takes requests.
constexpr std::chrono::seconds kPingInterval{1};
// Entries of the ring that leases may need: one acquire and one release each can be there. The rest
// is for counts, and so nobody ever waits for room in the ring.
constexpr uint32_t kRingOfLeases = 2 * kLeasesPerSession;
static_assert(kRingOfLeases < kRingEntries);

absl::Status StoreGone() {
  return absl::UnavailableError("the weight store is gone; retry when it is back");
}

absl::StatusOr<Mapping> MapExactly(const UniqueFd& fd, uint64_t bytes, Mapping::Access access) {
  ASSIGN_OR_RETURN(const uint64_t actual, FileSize(fd.get()));
  if (actual != bytes || bytes < kPageBytes) {
    return absl::DataLossError(
        absl::StrCat("shared memory has ", actual, " bytes, announced were ", bytes));
  }
  auto mapping = Mapping::Map(fd.get(), bytes, access);
  if (mapping.ok()) return mapping;
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot map what the store shares: ", mapping.status().message(),
                   "; raise the address space limit (ulimit -v)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightClient>> WeightClient::Attach(const std::string& socket_path,
                                                                   const std::string& engine_name,
                                                                   OnWait on_wait) {
  auto client = std::unique_ptr<WeightClient>(new WeightClient(std::move(on_wait)));
  ASSIGN_OR_RETURN(AttachAnswer answer, RequestAttach(socket_path, engine_name, client->patience_));
  ASSIGN_OR_RETURN(client->region_,
                   MapExactly(answer.region, answer.region_bytes, Mapping::Access::kRead));
  ASSIGN_OR_RETURN(client->session_,
                   MapExactly(answer.session, answer.session_bytes, Mapping::Access::kReadWrite));
  client->socket_ = std::move(answer.socket);
  client->kick_ = std::move(answer.kick);

  std::memcpy(&client->header_, client->region_.data(), sizeof(RegionHeader));
  const RegionHeader& header = client->header_;
  RETURN_IF_ERROR(ValidateRegionHeader(header, answer.region_bytes));
  const SessionHeader& session = client->session();
  RETURN_IF_ERROR(ValidateSessionHeader(session, answer.session_bytes));
  client->max_blocks_ = session.max_blocks;
  client->leases_offset_ = session.leases_offset;
  client->lease_stride_ = session.lease_stride;
  if (!client->manifest_.ParseFromArray(client->region_.data() + header.manifest_offset,
                                        static_cast<int>(header.manifest_bytes))) {
    return absl::DataLossError("the shared manifest is damaged; restart the store");
  }
  BoundNames(client->manifest_);
  ASSIGN_OR_RETURN(client->geometry_, GeometryFromManifest(client->manifest_));
  RETURN_IF_ERROR(CheckRegionGeometry(header, client->geometry_));
  if (SessionMaxBlocks(client->geometry_) != client->max_blocks_) {
    return absl::DataLossError("session and manifest disagree; restart the store");
  }
  RETURN_IF_ERROR(
      client->pack_rows_.Open(std::move(answer.pack), header.pack_uuid, client->patience_));
  RETURN_IF_ERROR(client->CheckStatics());
  return client;
}

absl::Status WeightClient::CheckStatics() const {
  RETURN_IF_ERROR(CheckStaticTensors(manifest_, pack_rows_.static_bytes()));
  for (const store::v1::StaticTensor& tensor : manifest_.static_tensors()) {
    if (InRegion(tensor)) continue;
    if (!tensor.row_xxh3().empty()) continue;  // one for each row: they can be read
    return absl::DataLossError("a static tensor lies outside the region; restart the store");
  }
  return absl::OkStatus();
}

bool WeightClient::InRegion(const store::v1::StaticTensor& tensor) const {
  return tensor.offset() <= header_.static_bytes &&
         tensor.bytes() <= header_.static_bytes - tensor.offset();
}

std::span<const ResidencyEntry> WeightClient::Residency(uint32_t layer, UnitKind kind) const {
  return {region_.At<const ResidencyEntry>(ResidencyOffset(header_, layer, kind)),
          header_.kinds[static_cast<uint32_t>(kind)].block_count};
}

bool WeightClient::Complete(uint32_t layer, UnitKind kind) {
  const RegionKind& k = header_.kinds[static_cast<uint32_t>(kind)];
  if (k.slots_per_layer < k.block_count) return false;
  const size_t index = size_t{layer} * kUnitKinds + static_cast<uint32_t>(kind);
  complete_.resize(size_t{header_.layer_count} * kUnitKinds, false);
  if (complete_[index]) return true;
  // Acquire: pairs with the store's release when the block has landed.
  complete_[index] = std::ranges::all_of(Residency(layer, kind), [](const ResidencyEntry& entry) {
    const uint32_t value = entry.load(std::memory_order_acquire);
    return value != 0 && (value & kInFlight) == 0;
  });
  return complete_[index];
}

void WeightClient::EndPass(bool complete) {
  if (complete) {
    patience_.Settle();
    ping_.reset();
  }
  for (const LeaseMode mode : {LeaseMode::kSelect, LeaseMode::kStream}) {
    uint64_t units = std::exchange(uses_[mode == LeaseMode::kSelect ? 0 : 1], 0);
    // More than one pass has only after passes that failed.
    while (units > 0) {
      const uint64_t part = std::min(units, UnitsOfPass(geometry_));
      units -= part;
      // A store that takes no requests counts no more.
      if (!Taken(submitted_ + 1 - (kRingEntries - kRingOfLeases))) break;
      [[maybe_unused]] const absl::Status posted =
          Post({.op = static_cast<uint32_t>(RingOp::kCount),
                .lease = 0,
                .layer = 0,
                .kind = 0,
                .mode = static_cast<uint32_t>(mode),
                .block_count = 0,
                .serial = part});
    }
  }
}

bool WeightClient::connected() const {
  char byte;
  const ssize_t bytes = ::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

void WeightClient::Kick() const {
  if (session().store_waiting.load(std::memory_order_seq_cst) == 0) return;
  const uint64_t one = 1;
  // Fails only if the counter is full: then the store has been kicked more than enough.
  [[maybe_unused]] const ssize_t written = ::write(kick_.get(), &one, sizeof(one));
}

bool WeightClient::Taken(uint32_t count) const {
  return static_cast<int32_t>(session().taken.load(std::memory_order_acquire) - count) >= 0;
}

absl::Status WeightClient::WaitTaken(uint32_t count) {
  constexpr int kSpins = 1000, kShortSleeps = 100;
  uint32_t seen = session().taken.load(std::memory_order_acquire);
  for (int spins = 0;; ++spins) {
    if (Taken(count)) {
      if (spins > kSpins) patience_.Paid();
      return absl::OkStatus();
    }
    if (spins < kSpins) {
      CpuRelax();
      continue;
    }
    Kick();
    if (!connected()) return StoreGone();
    patience_.Owed();
    const uint32_t taken = session().taken.load(std::memory_order_acquire);
    if (std::exchange(seen, taken) != taken) patience_.Progress();
    RETURN_IF_ERROR(patience_.Check());
    ::usleep(spins < kSpins + kShortSleeps ? 50 : 5000);
  }
}

absl::Status WeightClient::Post(const RingEntry& entry) {
  if (!Taken(submitted_ + 1 - kRingEntries)) {  // See kRingOfLeases.
    return absl::InternalError("the store has lost count of the request ring; restart it");
  }
  session().ring[submitted_ % kRingEntries] = entry;
  session().submitted.store(++submitted_, std::memory_order_seq_cst);
  Kick();
  return absl::OkStatus();
}

void WeightClient::Doubt(uint32_t lease, size_t i) {
  doubtful_layer_ = leases_[lease].layer;
  doubtful_kind_ = leases_[lease].kind;
  const auto* wanted = session_.At<WantedBlock>(LeaseOffset(lease) + sizeof(LeaseHeader));
  doubtful_block_ = std::min(wanted[i].block, geometry_.kind(doubtful_kind_).block_count - 1);
}

void WeightClient::ProbeBlock() {
  if (probe_.held()) {
    if (!probe_.Known(0)) return;
    probe_.Release();
    patience_.Settle();  // Also if it came with an error: that is an answer.
    return;
  }
  // Of the leases that may be used without waiting: this must not.
  const LeaseUse& next = leases_[next_lease_];
  if (next.active || !Taken(next.released_at)) return;
  const WantedBlock wanted = {.block = doubtful_block_};
  auto lease = Acquire(doubtful_layer_, doubtful_kind_, {&wanted, 1}, LeaseMode::kStream);
  if (lease.ok()) probe_ = *std::move(lease);
}

void WeightClient::Probe() {
  if (patience_.in_doubt() || probe_.held()) return ProbeBlock();
  if (ping_ && !Taken(*ping_)) return patience_.Owed();
  ping_.reset();
  patience_.Paid();
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ping_ < kPingInterval || !Taken(submitted_)) return;
  last_ping_ = now;
  // Nothing was used: it is only to be taken.
  const absl::Status posted = Post({.op = static_cast<uint32_t>(RingOp::kCount),
                                    .lease = 0,
                                    .layer = 0,
                                    .kind = 0,
                                    .mode = static_cast<uint32_t>(LeaseMode::kStream),
                                    .block_count = 0,
                                    .serial = 0});
  if (posted.ok()) ping_ = submitted_;
}

absl::StatusOr<WeightLease> WeightClient::Acquire(uint32_t layer, UnitKind kind,
                                                  std::span<const WantedBlock> wanted,
                                                  LeaseMode mode) {
  CHECK(wanted.size() <= max_blocks_);
  // In turn: the store has long taken the release of the one that was used longest ago.
  uint32_t index = next_lease_;
  while (leases_[index].active) {
    index = (index + 1) % kLeasesPerSession;
    CHECK(index != next_lease_);
  }
  next_lease_ = (index + 1) % kLeasesPerSession;
  // The store may still publish for the lease that used this place before, until it took the
  // release. Taken from now on: while we wait, Probe() may look for a place of its own.
  leases_[index].active = true;
  absl::Status free = WaitTaken(leases_[index].released_at);
  if (free.ok() && !connected()) free = StoreGone();
  if (!free.ok()) {
    leases_[index].active = false;
    return free;
  }
  leases_[index].layer = layer;
  leases_[index].kind = kind;

  LeaseHeader& header = lease_header(index);
  header.consumed.store(0, std::memory_order_relaxed);
  header.error_code.store(0, std::memory_order_relaxed);
  header.arrived.store(0, std::memory_order_relaxed);
  std::copy(wanted.begin(), wanted.end(),
            session_.At<WantedBlock>(LeaseOffset(index) + sizeof(LeaseHeader)));
  for (size_t i = 0; i < wanted.size(); ++i) {
    locations(index)[i].store(0, std::memory_order_relaxed);
  }
  WeightLease lease;
  lease.serial_ = next_serial_++;
  const absl::Status posted = Post({.op = static_cast<uint32_t>(RingOp::kAcquire),
                                    .lease = index,
                                    .layer = layer,
                                    .kind = static_cast<uint32_t>(kind),
                                    .mode = static_cast<uint32_t>(mode),
                                    .block_count = static_cast<uint32_t>(wanted.size()),
                                    .serial = lease.serial_});
  if (!posted.ok()) {
    leases_[index].active = false;
    return posted;
  }
  lease.client_ = this;
  lease.lease_ = index;
  lease.block_count_ = wanted.size();
  lease.block_bytes_ = header_.kinds[static_cast<uint32_t>(kind)].block_bytes;
  return lease;
}

WeightLease& WeightLease::operator=(WeightLease&& other) noexcept {
  if (this != &other) {
    Release();
    client_ = std::exchange(other.client_, nullptr);
    lease_ = other.lease_;
    serial_ = other.serial_;
    block_count_ = other.block_count_;
    block_bytes_ = other.block_bytes_;
    stall_ = other.stall_;
  }
  return *this;
}

const std::byte* WeightLease::TryGet(size_t i) const {
  // Acquire: pairs with the store's release; the bytes are there before the location.
  const uint64_t location = client_->locations(lease_)[i].load(std::memory_order_acquire);
  if ((location & kLocationReady) == 0 || (location & kLocationFailed) != 0) return nullptr;
  const uint64_t offset = location & kLocationOffsetMask;
  return offset <= client_->header_.region_bytes - block_bytes_ ? client_->region_.data() + offset
                                                                : nullptr;
}

bool WeightLease::IsStreamed(size_t i) const {
  return (client_->locations(lease_)[i].load(std::memory_order_relaxed) & kLocationStreamed) != 0;
}

bool WeightLease::WasResident(size_t i) const {
  const uint64_t location = client_->locations(lease_)[i].load(std::memory_order_relaxed);
  return (location & kLocationWasResident) != 0;
}

absl::Status WeightLease::Error() const {
  const LeaseHeader& header = client_->lease_header(lease_);
  const uint32_t code = header.error_code.load(std::memory_order_acquire);
  if (code == 0) return absl::OkStatus();
  const absl::string_view text(header.error, strnlen(header.error, sizeof(header.error)));
  switch (static_cast<absl::StatusCode>(code)) {
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      return absl::Status(static_cast<absl::StatusCode>(code), text);
    default:
      return absl::InternalError(absl::StrCat("the store reports error ", code, ": ", text));
  }
}

bool WeightLease::Rejected() const {
  const LeaseHeader& header = client_->lease_header(lease_);
  return header.granted_serial.load(std::memory_order_acquire) == serial_ &&
         header.hit_blocks == 0 && header.miss_blocks == 0;
}

bool WeightLease::Known(size_t i) const {
  return client_->locations(lease_)[i].load(std::memory_order_acquire) != 0 || Rejected();
}

size_t WeightLease::FirstUnknown() const {
  size_t i = 0;
  while (i + 1 < block_count_ && Known(i)) ++i;
  return i;
}

template <typename Ready>
absl::Status WeightLease::WaitFor(Ready ready) {
  if (ready()) return absl::OkStatus();
  const auto start = std::chrono::steady_clock::now();
  LeaseHeader& header = client_->lease_header(lease_);
  Patience& patience = client_->patience_;
  uint32_t seen = header.progress.load(std::memory_order_relaxed);
  absl::Status result;
  for (int spins = 0;; ++spins) {
    const uint32_t progress = header.progress.load(std::memory_order_seq_cst);
    if (ready()) {
      if (spins > kSpinsBeforeSleep) patience.Paid();
      break;
    }
    if (spins < kSpinsBeforeSleep) {
      CpuRelax();
      continue;
    }
    // A store that has died wakes nobody.
    if (!client_->connected()) {
      result = StoreGone();
      break;
    }
    patience.Owed();
    if (std::exchange(seen, progress) != progress) patience.Progress();
    result = patience.Check();
    if (!result.ok()) {
      client_->Doubt(lease_, FirstUnknown());
      break;
    }
    header.engine_waiting.store(1, std::memory_order_seq_cst);
    if (header.progress.load(std::memory_order_seq_cst) == progress && !ready()) {
      FutexWait(&header.progress, progress, Patience::kLook);
    }
    header.engine_waiting.store(0, std::memory_order_relaxed);
  }
  stall_ += std::chrono::steady_clock::now() - start;
  return result;
}

size_t WeightLease::arrived() const {
  // Acquire: pairs with the store's release; arrivals and locations are there before the count.
  const uint32_t count = client_->lease_header(lease_).arrived.load(std::memory_order_acquire);
  return std::min<size_t>(count, block_count_);
}

size_t WeightLease::Arrival(size_t k) const {
  const uint32_t i = client_->arrivals(lease_)[k].load(std::memory_order_relaxed);
  return std::min<size_t>(i, block_count_ - 1);
}

absl::Status WeightLease::WaitArrival(size_t k) {
  RETURN_IF_ERROR(WaitFor([&] { return arrived() > k || Rejected(); }));
  return arrived() > k ? absl::OkStatus() : Error();
}

absl::StatusOr<const std::byte*> WeightLease::Wait(size_t i) {
  RETURN_IF_ERROR(WaitFor([&] { return Known(i); }));
  if (const std::byte* data = TryGet(i); data != nullptr) return data;
  RETURN_IF_ERROR(Error());
  return absl::InternalError("the store gave an invalid location");
}

void WeightLease::Consumed(size_t count) {
  client_->lease_header(lease_).consumed.store(static_cast<uint32_t>(count),
                                               std::memory_order_seq_cst);
  client_->Kick();
}

absl::StatusOr<WeightLease::Accounts> WeightLease::accounts() {
  const LeaseHeader& header = client_->lease_header(lease_);
  RETURN_IF_ERROR(
      WaitFor([&] { return header.granted_serial.load(std::memory_order_acquire) == serial_; }));
  if (Rejected()) return Error();
  return Accounts{.hit_units = header.hit_units,
                  .miss_units = header.miss_units,
                  .flash_bytes = header.flash_bytes,
                  .flash_reads = header.flash_reads.load(std::memory_order_relaxed)};
}

void WeightLease::Release() {
  if (client_ == nullptr) return;
  WeightClient* client = std::exchange(client_, nullptr);
  // A store that is gone has dropped the lease already.
  const absl::Status posted = client->Post({.op = static_cast<uint32_t>(RingOp::kRelease),
                                            .lease = lease_,
                                            .layer = 0,
                                            .kind = 0,
                                            .mode = 0,
                                            .block_count = 0,
                                            .serial = serial_});
  client->leases_[lease_].active = false;
  client->leases_[lease_].released_at = posted.ok() ? client->submitted_ : 0;
}

}  // namespace tidegate
