#include "weightstore/io/uring_device.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

constexpr unsigned kBatch = 64;  // completions taken from the ring at once
// The kernel moves at most just under 2 GiB per read; longer ones come back short and go on.
constexpr uint64_t kMaxFixedRead = uint64_t{1} << 30;

}  // namespace

absl::StatusOr<std::unique_ptr<FlashDevice>> UringDevice::Create(FlashFile& file,
                                                                 const FlashOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<UringRing> ring,
                   UringRing::Create(options.queue_depth, file.fd.get(), options.buffer));
  return std::unique_ptr<FlashDevice>(new UringDevice(std::move(file), std::move(ring), options));
}

UringDevice::UringDevice(FlashFile file, std::unique_ptr<UringRing> ring,
                         const FlashOptions& options)
    : file_(std::move(file)), ring_(std::move(ring)), pool_(options.queue_depth) {
  info_.backend = "io_uring";
  info_.reason = ring_->Describe();
  info_.direct = file_.direct;
  info_.why_not_direct = file_.why_not_direct;
  info_.fixed_file = ring_->fixed_file();
  info_.fixed_buffer_bytes = ring_->buffers().registered_bytes();
  info_.queue_depth = options.queue_depth;
  enqueued_.reserve(options.queue_depth);
}

UringDevice::~UringDevice() {
  // Entries never submitted vanish with the ring. Reads that the kernel has cannot be taken back.
  while (in_kernel_ > 0) {
    io_uring_cqe* cqe = nullptr;
    const int result = io_uring_wait_cqe(ring_->get(), &cqe);
    if (result == -EINTR || result == -EAGAIN) continue;
    if (result < 0) {
      LogError("flash: io_uring: cannot wait for ", in_kernel_, " reads: ", ErrnoText(-result));
      return;
    }
    io_uring_cqe_seen(ring_->get(), cqe);
    --in_kernel_;
  }
}

void UringDevice::Prepare(uint32_t request) {
  // Never null: the ring has room for every request of the pool.
  io_uring_sqe* sqe = io_uring_get_sqe(ring_->get());
  CHECK(sqe != nullptr);
  const ReadRequest& read = pool_[request];
  const iovec& first = *read.iov();
  const uint64_t bytes = std::min<uint64_t>(first.iov_len, kMaxFixedRead);
  const int chunk = read.iov_count() == 1 ? ring_->buffers().Find(first.iov_base, bytes) : -1;
  if (chunk >= 0) {
    io_uring_prep_read_fixed(sqe, ring_->sqe_file(), first.iov_base, static_cast<unsigned>(bytes),
                             read.offset(), chunk);
  } else {
    io_uring_prep_readv(sqe, ring_->sqe_file(), read.iov(), read.iov_count(), read.offset());
  }
  if (ring_->fixed_file()) sqe->flags |= IOSQE_FIXED_FILE;
  io_uring_sqe_set_data64(sqe, request);
}

void UringDevice::Enqueue(const FlashRead& read) {
  const uint32_t request = pool_.Take(read);
  enqueued_.push_back(request);
  Prepare(request);
}

absl::Status UringDevice::Submit() {
  if (!enqueued_.empty()) {
    const auto now = ReadRequest::Clock::now();
    for (const uint32_t request : enqueued_) pool_[request].set_submitted(now);
    enqueued_.clear();
  }
  while (io_uring_sq_ready(ring_->get()) > 0) {
    const int result = io_uring_submit(ring_->get());
    if (result > 0) in_kernel_ += static_cast<uint32_t>(result);
    if (result > 0 || result == -EINTR) continue;
    const int error = result < 0 ? -result : EAGAIN;  // 0: nothing was accepted
    return absl::UnavailableError(absl::StrCat("io_uring_enter: ", ErrnoText(error)));
  }
  resubmit_ = false;
  return absl::OkStatus();
}

void UringDevice::Reap(std::vector<FlashCompletion>& completions) {
  io_uring_cqe* cqes[kBatch];
  unsigned count = io_uring_peek_batch_cqe(ring_->get(), cqes, kBatch);
  while (count > 0) {
    const auto now = ReadRequest::Clock::now();
    for (unsigned i = 0; i < count; ++i) Handle(*cqes[i], now, completions);
    io_uring_cq_advance(ring_->get(), count);
    in_kernel_ -= count;
    count = io_uring_peek_batch_cqe(ring_->get(), cqes, kBatch);
  }
  if (!resubmit_) return;
  const absl::Status submitted = Submit();
  if (!submitted.ok()) submission_log_.Warning("flash: ", submitted.message(), "; trying again");
}

void UringDevice::Handle(const io_uring_cqe& cqe, ReadRequest::Clock::time_point now,
                         std::vector<FlashCompletion>& completions) {
  const auto request = static_cast<uint32_t>(cqe.user_data);
  ReadRequest& read = pool_[request];
  if (read.Apply(cqe.res, file_.direct)) {
    completions.push_back(read.Complete(now));
    pool_.GiveBack(request);
  } else {
    Prepare(request);
    resubmit_ = true;
  }
}

}  // namespace tidegate
