// A device of given bandwidth, latency and read rate over a real file: the data are read through
// the page cache, the times come from FlashSchedule (flash_model.h has the formula). Experiments
// repeat on any machine as long as the file stays in the page cache and the owner thread calls
// Reap() in time; the bytes are copied inside Reap(), when a read is due.
//
// Threads, errors: as FlashDevice. A completion's latency is the modelled one.
#pragma once

#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "weightstore/io/flash_device.h"
#include "weightstore/io/flash_file.h"
#include "weightstore/io/flash_model.h"
#include "weightstore/io/read_request.h"

namespace tidegate {

class ModelledDevice : public FlashDevice {
 public:
  // REQUIRES: options.model is set, options.queue_depth > 0. `file` is not direct.
  static absl::StatusOr<std::unique_ptr<FlashDevice>> Create(FlashFile file,
                                                             const FlashOptions& options);

  uint32_t free_count() const override { return pool_.free_count(); }
  uint32_t in_flight() const override { return pool_.used_count(); }
  void Enqueue(const FlashRead& read) override;
  absl::Status Submit() override;
  void Reap(std::vector<FlashCompletion>& completions) override;
  int event_fd() const override { return timer_.get(); }
  const FlashInfo& info() const override { return info_; }

 private:
  using Clock = ReadRequest::Clock;

  struct Pending {
    uint32_t request;
    Clock::time_point due;
  };

  ModelledDevice(FlashFile file, UniqueFd timer, const FlashOptions& options);

  Pending& At(uint64_t position) { return ring_[position % ring_.size()]; }
  // Makes the timer expire when the oldest submitted read is due, or never.
  absl::Status ArmTimer();

  FlashFile file_;
  UniqueFd timer_;
  FlashInfo info_;
  FlashSchedule schedule_;
  const std::optional<uint64_t> bad_from_;
  ReadPool pool_;
  // FIFO of reads in order of Enqueue(): [head_, submitted_) have due times, [submitted_, tail_)
  // wait for Submit(). Positions grow for ever; At() folds them.
  std::vector<Pending> ring_;
  uint64_t head_ = 0;
  uint64_t submitted_ = 0;
  uint64_t tail_ = 0;
};

}  // namespace tidegate
