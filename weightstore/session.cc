#include "weightstore/session.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/futex.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {

absl::StatusOr<std::unique_ptr<Session>> Session::Create(uint32_t index, uint32_t max_blocks,
                                                         StagingPool staging) {
  auto session = std::unique_ptr<Session>(new Session(index, max_blocks, std::move(staging)));
  const uint64_t bytes = SessionBytes(max_blocks);
  session->memory_ = UniqueFd(::memfd_create("tidegate-session", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!session->memory_.valid()) return absl::ErrnoToStatus(errno, "memfd_create");
  if (::ftruncate(session->memory_.get(), static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(session->memory_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) !=
          0) {
    return absl::ErrnoToStatus(errno, "session memory");
  }
  ASSIGN_OR_RETURN(session->mapping_,
                   Mapping::Map(session->memory_.get(), bytes, Mapping::Access::kReadWrite));
  session->kick_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!session->kick_.valid()) return absl::ErrnoToStatus(errno, "eventfd");
  SessionHeader& header = session->header();
  header.version = kShmVersion;
  header.session_index = index;
  header.session_bytes = bytes;
  header.leases_offset = session->LeaseOffset(0);
  header.lease_stride = SessionLeaseStride(max_blocks);
  header.max_blocks = max_blocks;
  header.magic = kSessionMagic;
  return session;
}

bool Session::TakeRequest(RingEntry& entry) {
  // seq_cst: pairs with the engine's store of `submitted` before it looks at store_waiting.
  const uint32_t submitted = header().submitted.load(std::memory_order_seq_cst);
  const uint32_t waiting = submitted - taken_;
  if (waiting == 0) return false;
  if (waiting > kRingEntries) {
    ring_broken_ = true;
    return false;
  }
  entry = header().ring[taken_ % kRingEntries];
  header().taken.store(++taken_, std::memory_order_release);
  return true;
}

void Session::Publish(uint32_t lease, uint32_t index, uint64_t location) {
  // Release: the block's bytes (or the error) are visible to whoever sees the location.
  locations(lease)[index].store(location | kLocationReady, std::memory_order_release);
  Lease& own = leases[lease];
  CHECK(own.arrived < own.wanted.size() && !own.published[index]);
  arrivals(lease)[own.arrived].store(index, std::memory_order_relaxed);
  lease_header(lease).arrived.store(++own.arrived, std::memory_order_release);
  own.published[index] = true;
  own.dirty = true;
}

void Session::SetError(uint32_t lease, const absl::Status& status) {
  LeaseHeader& header = lease_header(lease);
  if (header.error_code.load(std::memory_order_relaxed) != 0) return;
  const std::string_view text =
      CutAtCharacter({status.message().data(), status.message().size()}, sizeof(header.error) - 1);
  std::memcpy(header.error, text.data(), text.size());
  header.error[text.size()] = '\0';
  header.error_code.store(static_cast<uint32_t>(status.code()), std::memory_order_release);
}

void Session::Notify(uint32_t lease) {
  leases[lease].dirty = false;
  LeaseHeader& header = lease_header(lease);
  // seq_cst on both words: either the engine sees the new progress before it sleeps, or we see that
  // it is about to sleep and wake it.
  header.progress.fetch_add(1, std::memory_order_seq_cst);
  if (header.engine_waiting.load(std::memory_order_seq_cst) != 0) FutexWakeAll(&header.progress);
}

}  // namespace tidegate
