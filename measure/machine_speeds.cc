#include "measure/machine_speeds.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/status_macros.h"
#include "base/units.h"
#include "measure/flash_meter.h"
#include "measure/kernel_meter.h"

namespace tidegate {
namespace {

constexpr uint64_t kMergedBytes = kMiB;  // the store's largest read
// Leases of a dense pass that have reads out: this layer's hidden units and the next one's input.
constexpr uint32_t kStreamLeases = 2;
constexpr int kWindows = 3;  // of each measurement

// What all blocks of a pack are multiples of.
uint32_t AlignmentOf(const PackGeometry& geometry) {
  const bool pages = geometry.kinds[0].block_bytes % kPageBytes == 0 &&
                     geometry.kinds[1].block_bytes % kPageBytes == 0;
  return static_cast<uint32_t>(pages ? kPageBytes : kSectorBytes);
}

// Of some short windows the best: what else runs here comes and goes.
absl::StatusOr<FlashRate> BestRead(FlashMeter& flash, uint64_t bytes, uint32_t depth,
                                   double seconds) {
  FlashRate best;
  for (int i = 0; i < kWindows; ++i) {
    ASSIGN_OR_RETURN(const FlashRate rate, flash.Read(bytes, depth, seconds / kWindows));
    if (rate.bytes_per_second > best.bytes_per_second) best = rate;
  }
  return best;
}

// Reads blocks and adds units at the same time.
absl::StatusOr<double> MeasureOverlap(const PackIndex& pack, const SpeedQuestion& question,
                                      const MachineSpeeds& alone, FlashMeter& flash,
                                      KernelMeter& kernels) {
  std::atomic<bool> stop = false;
  absl::StatusOr<FlashRate> beside;
  std::thread reader([&] {
    beside = flash.Read(pack.geometry.kinds[0].block_bytes, question.queue_depth,
                        question.seconds / kWindows);
    stop = true;
  });
  const auto start = std::chrono::steady_clock::now();
  const uint64_t added = kernels.AddUnits(stop);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  reader.join();
  RETURN_IF_ERROR(beside.status());
  return OverlapOf(alone.block_rate[0], beside->bytes_per_second, alone.unit_rate[0],
                   static_cast<double>(added) / std::max(1e-9, took.count()));
}

}  // namespace

double OverlapOf(double a_alone, double a_beside, double b_alone, double b_beside) {
  if (!(a_alone > 0 && b_alone > 0)) return 0;
  return std::clamp(a_beside / a_alone + b_beside / b_alone - 1, 0.0, 1.0);
}

absl::StatusOr<MeasuredSpeeds> MeasureSpeeds(const PackIndex& pack, const SpeedQuestion& question) {
  ASSIGN_OR_RETURN(const FlashRange range, RangeOf(question.drive));
  ASSIGN_OR_RETURN(const std::unique_ptr<FlashMeter> flash,
                   FlashMeter::Open(range, question.queue_depth, AlignmentOf(pack.geometry)));
  KernelMeter kernels(&pack, question.precision, question.threads);
  RETURN_IF_ERROR(kernels.Prepare());
  MeasuredSpeeds measured;
  MachineSpeeds& speeds = measured.speeds;
  speeds.static_rate = kernels.StaticRate(question.seconds);
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const uint32_t block_bytes = pack.geometry.kinds[k].block_bytes;
    speeds.unit_rate[k] = kernels.UnitRate(static_cast<UnitKind>(k), question.seconds);
    ASSIGN_OR_RETURN(const FlashRate rate,
                     BestRead(*flash, block_bytes, question.queue_depth, question.seconds));
    speeds.block_rate[k] = rate.bytes_per_second;
  }
  const uint64_t largest =
      std::max(pack.geometry.kinds[0].block_bytes, pack.geometry.kinds[1].block_bytes);
  measured.stream_read_bytes = std::clamp(question.stream_bytes / kSectorBytes * kSectorBytes,
                                          largest, std::max(largest, kMergedBytes));
  const auto depth = static_cast<uint32_t>(
      std::max<uint64_t>(1, kStreamLeases * question.stream_bytes / measured.stream_read_bytes));
  ASSIGN_OR_RETURN(const FlashRate stream,
                   BestRead(*flash, measured.stream_read_bytes, depth, question.seconds));
  speeds.stream_rate = stream.bytes_per_second;
  ASSIGN_OR_RETURN(const FlashRate single,
                   BestRead(*flash, pack.geometry.kinds[0].block_bytes, 1, question.seconds));
  speeds.read_seconds = 1 / std::max(1e-9, single.reads_per_second);
  double overlaps[kWindows];
  for (double& overlap : overlaps) {
    ASSIGN_OR_RETURN(overlap, MeasureOverlap(pack, question, speeds, *flash, kernels));
  }
  std::sort(std::begin(overlaps), std::end(overlaps));
  speeds.overlap = overlaps[kWindows / 2];
  measured.flash = flash->info();
  measured.threads = kernels.threads();
  measured.kernels = std::string(kernels.kernels());
  return measured;
}

}  // namespace tidegate
