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

std::unique_ptr<BlockReader::Job> BlockReader::NewJob() {
  if (spare_.empty()) return std::make_unique<Job>();
  std::unique_ptr<Job> job = std::move(spare_.back());
  spare_.pop_back();
  job->segments.clear();
  job->orders.clear();
  job->retry = false;
  return job;
}

bool BlockReader::Extend(Job& job, const BlockOrder& order, uint64_t offset, uint32_t bytes) const {
  if (job.retry || job.offset + job.bytes != offset || job.bytes + bytes > kMergeBytesMax ||
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
  const uint32_t bytes = BlockBytes(order);
  const uint64_t offset = pack_->header.blocks_offset +
                          pack_->geometry.BlockOffset(order.layer, order.kind, order.block);
  if (!queued_.empty() && Extend(*queued_.back(), order, offset, bytes)) return false;
  std::unique_ptr<Job> job = NewJob();
  job->offset = offset;
  job->bytes = bytes;
  job->segments.push_back({order.target, bytes});
  job->orders.push_back(order);
  queued_.push_back(std::move(job));
  return true;
}

absl::Status BlockReader::Submit() {
  bool any = false;
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
  for (const BlockOrder& order : job->orders) {
    if (status.ok()) {
      FinishBlock(order, job->retry, done);
    } else {
      done(order, Annotate(status, BlockName(order)));
    }
  }
  spare_.push_back(std::move(job));
}

void BlockReader::FinishBlock(const BlockOrder& order, bool retry, const Done& done) {
  const uint64_t index = pack_->geometry.BlockIndex(order.layer, order.kind, order.block);
  if (!verify_ || Checksum(order.target, BlockBytes(order)) == pack_->block_checksums[index]) {
    done(order, absl::OkStatus());
    return;
  }
  ++stats_->flash_reads_corrupt;
  if (!retry) {  // Once more: the error may have been on the way, not on the drive.
    std::unique_ptr<Job> job = NewJob();
    job->offset = pack_->header.blocks_offset +
                  pack_->geometry.BlockOffset(order.layer, order.kind, order.block);
    job->bytes = BlockBytes(order);
    job->segments.push_back({order.target, BlockBytes(order)});
    job->orders.push_back(order);
    job->retry = true;
    queued_.push_back(std::move(job));
    return;
  }
  const absl::Status bad =
      absl::DataLossError(absl::StrCat("damaged block: ", BlockName(order),
                                       ": checksum differs; check with `tidegate "
                                       "inspect --verify` and pack the model again"));
  if (reported_bad_.insert(index).second) {
    ++stats_->corrupt_blocks;
    LogError(bad.message());
  }
  done(order, bad);
}

}  // namespace tidegate
