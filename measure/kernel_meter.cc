#include "measure/kernel_meter.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>

#include "base/status_macros.h"
#include "base/units.h"
#include "proto/store/v1/static_rows.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {
namespace {

constexpr uint64_t kMostBytes = 256 * kMiB, kLeastBytes = 16 * kMiB;
constexpr size_t kLeastSteps = 5;
constexpr int kFill = 0x15;  // small, ordinary numbers in every type
constexpr size_t kRowGranule = 16, kColumnGranule = 64, kHiddenChains = 8;

// Bytes per second of `step`, which says how many it did, after one call that is not counted. The
// median: a thread that loses its core once must not decide.
double Rate(double seconds, const std::function<uint64_t()>& step) {
  using StepClock = std::chrono::steady_clock;
  step();
  std::vector<double> rates;
  const StepClock::time_point start = StepClock::now();
  StepClock::time_point now = start;
  while (rates.size() < kLeastSteps || now - start < std::chrono::duration<double>(seconds)) {
    const uint64_t bytes = step();
    const StepClock::time_point end = StepClock::now();
    const std::chrono::duration<double> took = end - now;
    rates.push_back(static_cast<double>(bytes) / std::max(1e-9, took.count()));
    now = end;
  }
  const auto middle = rates.begin() + static_cast<ptrdiff_t>(rates.size() / 2);
  std::nth_element(rates.begin(), middle, rates.end());
  return *middle;
}

}  // namespace

KernelMeter::KernelMeter(const PackIndex* pack, Precision precision, uint32_t threads)
    : pack_(*pack), kernels_(BestKernels(precision)), pool_(threads) {}

absl::Status KernelMeter::Prepare() {
  const PackGeometry& geometry = pack_.geometry;
  memory_bytes_ =
      std::clamp(pack_.header.static_bytes + geometry.blocks_bytes(), kLeastBytes, kMostBytes);
  RETURN_IF_ERROR(memory_.Reserve(memory_bytes_));
  std::memset(memory_.data(), kFill, memory_bytes_);
  uint64_t rows = 1, columns = 1;
  for (const store::v1::StaticTensor& tensor : pack_.manifest.static_tensors()) {
    rows = std::max(rows, tensor.rows());
    columns = std::max(columns, tensor.columns());
  }
  uint64_t sums = 1;
  for (const KindGeometry& kind : geometry.kinds) {
    sums = std::max(sums, kHiddenChains * uint64_t{kind.column_elements});
  }
  x_.assign(columns, 0.5f);
  y_.assign(rows, 0.0f);
  sums_.assign(sums, 0.0f);
  return absl::OkStatus();
}

const uint8_t* KernelMeter::Take(uint64_t bytes) {
  if (next_ + bytes > memory_bytes_) next_ = 0;
  const uint8_t* const at = memory_.data() + next_;
  next_ += RoundUp(bytes, kStaticAlign);
  return at;
}

void KernelMeter::Multiply(const MatrixView& matrix) {
  pool_.For(matrix.rows, kRowGranule, matrix.rows * matrix.row_bytes,
            [&](size_t begin, size_t end) {
              kernels_.mat_vec(matrix, begin, end, x_.data(), y_.data());
            });
}

uint64_t KernelMeter::MultiplyAll() {
  uint64_t bytes = 0;
  for (const store::v1::StaticTensor& tensor : pack_.manifest.static_tensors()) {
    if (tensor.rows() <= 1) continue;
    MatrixView matrix;
    matrix.type = static_cast<GgmlType>(tensor.type());
    matrix.columns = tensor.columns();
    matrix.row_bytes = StaticRowBytes(matrix.type, matrix.columns);
    matrix.rows = std::min<uint64_t>(tensor.rows(), memory_bytes_ / matrix.row_bytes);
    const uint64_t taken = matrix.rows * matrix.row_bytes;
    matrix.data = reinterpret_cast<const std::byte*>(Take(taken));
    Multiply(matrix);
    bytes += taken;
  }
  return bytes;
}

uint64_t KernelMeter::AddLayer(UnitKind kind) {
  const KindGeometry& k = pack_.geometry.kind(kind);
  const auto encoding = static_cast<UnitEncoding>(pack_.manifest.unit_encoding());
  const uint64_t column_bytes = ColumnBytes(encoding, k.column_elements);
  const uint64_t unit_bytes = column_bytes * k.columns_per_unit;
  const uint64_t of_layer = k.unit_count / ExpertSlots(pack_.manifest.hyper_parameters());
  const uint64_t units = std::clamp<uint64_t>(memory_bytes_ / unit_bytes, 1, of_layer);
  // Chains of columns, as the MLP divides them among threads: gate and up, or eight of down.
  const uint64_t chains = k.columns_per_unit == 2 ? 2 : std::min<uint64_t>(kHiddenChains, units);
  const uint64_t count = k.columns_per_unit == 2 ? units : units / chains;
  const uint8_t* const first = Take(units * unit_bytes);
  columns_.resize(chains * count);
  coefficients_.resize(count, 0.5f);
  for (uint64_t i = 0; i < columns_.size(); ++i) {
    const uint64_t unit = k.columns_per_unit == 2 ? i % count : i;
    const uint64_t column = k.columns_per_unit == 2 ? i / count : 0;
    columns_[i] = first + unit * unit_bytes + column * column_bytes;
  }
  const uint64_t elements = k.column_elements;
  const auto add = [&](size_t begin, size_t end) {
    for (size_t chain = begin / elements; chain * elements < end; ++chain) {
      const size_t from = std::max(begin, chain * elements) - chain * elements;
      const size_t to = std::min<size_t>(end - chain * elements, elements);
      kernels_.add_columns(encoding, columns_.data() + chain * count, coefficients_.data(), count,
                           elements, from, to, sums_.data() + chain * elements);
    }
  };
  pool_.For(chains * elements, kColumnGranule, columns_.size() * column_bytes, add);
  return columns_.size() * column_bytes;
}

double KernelMeter::StaticRate(double seconds) {
  return Rate(seconds, [&] { return MultiplyAll(); });
}

double KernelMeter::UnitRate(UnitKind kind, double seconds) {
  return Rate(seconds, [&] { return AddLayer(kind); });
}

uint64_t KernelMeter::AddUnits(const std::atomic<bool>& stop) {
  uint64_t bytes = 0;
  while (!stop) bytes += AddLayer(UnitKind::kInput);
  return bytes;
}

}  // namespace tidegate
