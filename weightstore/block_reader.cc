#include "weightstore/block_reader.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/units.h"

namespace tidegate {
namespace {

// One device read is at most this large: beyond it the drive gains nothing (1 MiB reads reach the
// sequential bandwidth) and a slot waits longer for its neighbours.
constexpr uint64_t kMergeBytesMax = kMiB;

// Verified at a time: some 50 us.
constexpr uint64_t kPollBytes = 512 * kKiB;

std::string BlockName(const BlockOrder& order) {
  return absl::StrCat("layer ", order.layer, ", ", UnitKindName(order.kind), " units, block ",
                      order.block);
}

}  // namespace

BlockReader::BlockReader(FlashDevice* device, const PackIndex* pack, bool verify, StoreStats* stats)
    : device_(device), pack_(pack), verify_(verify), stats_(stats) {}

uint32_t BlockReader::BlockBytes(const BlockOrder& order) const {
  return pack_->geometry.kind(order.kind).block_bytes;
}

uint64_t BlockReader::FileOffset(const BlockOrder& order) const {
  return pack_->header.blocks_offset +
         pack_->geometry.BlockOffset(order.layer, order.kind, order.block);
}

// A read of one block, to which others may join.
std::unique_ptr<BlockReader::Job> BlockReader::NewJob(const BlockOrder& order) {
  std::unique_ptr<Job> job;
  if (spare_.empty()) {
    job = std::make_unique<Job>();
  } else {
    job = std::move(spare_.back());
    spare_.pop_back();
  }
  job->offset = FileOffset(order);
  job->bytes = BlockBytes(order);
  job->segments.assign({{order.target, BlockBytes(order)}});
  job->orders.assign({order});
  job->alone = job->again = false;
  return job;
}

bool BlockReader::Extend(Job& job, const BlockOrder& order, uint64_t offset, uint32_t bytes) const {
  if (job.alone || job.offset + job.bytes != offset || job.bytes + bytes > kMergeBytesMax ||
      job.orders.back().purpose != order.purpose) {
    return false;
  }
  FlashSegment& last = job.segments.back();
  if (last.data + last.bytes == order.target) {
    last.bytes += bytes;
  } else if (job.segments.size() < kMaxSegments) {
    job.segments.push_back({order.target, bytes});
  } else {
    return false;
  }
  job.bytes += bytes;
  job.orders.push_back(order);
  return true;
}

bool BlockReader::Order(const BlockOrder& order) {
  const bool joins =
      !queued_.empty() && Extend(*queued_.back(), order, FileOffset(order), BlockBytes(order));
  if (!joins) queued_.push_back(NewJob(order));
  return !joins;
}

std::optional<std::chrono::steady_clock::time_point> BlockReader::OldestRead() const {
  std::optional<std::chrono::steady_clock::time_point> oldest;
  for (const std::unique_ptr<Job>& job : active_) {
    if (job != nullptr && (!oldest || job->submitted < *oldest)) oldest = job->submitted;
  }
  return oldest;
}

absl::Status BlockReader::Submit() {
  bool any = false;
  const auto now = std::chrono::steady_clock::now();
  while (!queued_.empty() && device_->free_count() > 0) {
    std::unique_ptr<Job> job = std::move(queued_.front());
    queued_.pop_front();
    uint64_t tag = active_.size();
    if (free_tags_.empty()) {
      active_.emplace_back();
    } else {
      tag = free_tags_.back();
      free_tags_.pop_back();
    }
    stats_->flash_read_bytes[static_cast<size_t>(job->orders[0].purpose)] += job->bytes;
    stats_->read_bytes.Observe(static_cast<double>(job->bytes));
    device_->Enqueue({.offset = job->offset, .segments = job->segments, .tag = tag});
    job->submitted = now;
    active_[tag] = std::move(job);
    ++active_count_;
    any = true;
  }
  stats_->flash_in_flight = active_count_;
  if (!any && !resubmit_) return absl::OkStatus();
  ++stats_->flash_submissions;
  const absl::Status submitted = device_->Submit();
  resubmit_ = !submitted.ok();
  return submitted;
}

size_t BlockReader::Poll(const Done& done) {
  completions_.clear();
  device_->Reap(completions_);
  for (FlashCompletion& completion : completions_) {
    stats_->read_seconds.Observe(std::chrono::duration<double>(completion.latency).count());
    landed_.push_back({std::move(active_[completion.tag]), std::move(completion.status)});
    free_tags_.push_back(completion.tag);
    --active_count_;
  }
  stats_->flash_in_flight = active_count_;
  size_t blocks = 0;
  for (uint64_t bytes = 0; !landed_.empty() && bytes < kPollBytes;) {
    LandedJob landed = std::move(landed_.front());
    landed_.pop_front();
    blocks += landed.job->orders.size();
    bytes += landed.job->bytes;
    Finish(std::move(landed.job), landed.status, done);
  }
  return blocks;
}

void BlockReader::Finish(std::unique_ptr<Job> job, const absl::Status& status, const Done& done) {
  ++(status.ok() ? stats_->flash_reads_ok : stats_->flash_reads_failed);
  if (status.ok()) {
    for (const BlockOrder& order : job->orders) FinishRead(order, job->again, done);
  } else {
    FinishFailed(*job, status, done);
  }
  spare_.push_back(std::move(job));
}

void BlockReader::FinishRead(const BlockOrder& order, bool again, const Done& done) {
  const uint64_t index = pack_->geometry.BlockIndex(order.layer, order.kind, order.block);
  if (!verify_ || Checksum(order.target, BlockBytes(order)) == pack_->block_checksums[index]) {
    done(order, absl::OkStatus());
    return;
  }
  ++stats_->flash_reads_corrupt;
  if (!again) {  // The error may have been on the way, not on the drive.
    ReadAlone(order, true);
    return;
  }
  const absl::Status bad =
      absl::DataLossError(absl::StrCat("damaged block: ", BlockName(order),
                                       ": checksum differs; check with `tidegate "
                                       "inspect --verify` and pack the model again"));
  if (damaged_.insert(index).second) {
    ++stats_->corrupt_blocks;
    damaged_log_.Error(bad.message());
  }
  done(order, bad);
}

void BlockReader::FinishFailed(const Job& job, const absl::Status& status, const Done& done) {
  if (job.orders.size() > 1) {  // Which of them cannot be read, and which only came along?
    for (const BlockOrder& order : job.orders) ReadAlone(order, false);
    return;
  }
  const BlockOrder& order = job.orders[0];
  // To the device a short file is a matter of range; to whoever waits, a block is lost either way.
  const char* const remedy = absl::IsOutOfRange(status)
                                 ? "the pack has been cut off; pack the model again"
                                 : "check the drive of the pack";
  const absl::Status lost = absl::DataLossError(
      absl::StrCat("cannot read ", BlockName(order), ": ", status.message(), "; ", remedy));
  failed_log_.Error(lost.message());
  done(order, lost);
}

void BlockReader::ReadAlone(const BlockOrder& order, bool again) {
  std::unique_ptr<Job> job = NewJob(order);
  job->alone = true;
  job->again = again;
  queued_.push_back(std::move(job));
}

}  // namespace tidegate
