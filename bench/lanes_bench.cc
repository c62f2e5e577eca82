// Many rows with one pass over the weights (mat_vec_lanes, add_columns_lanes) against the kernel of
// one row, called once per lane, by turns in one run on one core. Weights as in kernels_bench.
//   lane_weights  weights times lanes per second of processor time
//   over_single   how often faster than the calls for one row
//
//   lanes_bench --benchmark_filter='columns/q8/14336/AVX3_f32'
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "bench/working_set.h"
#include "engine/kernels/kernels.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

// Times two ways of the same work by turns, at least once each.
class ByTurns {
 public:
  template <class Lanes, class Single>
  void Run(benchmark::State& state, const Lanes& lanes, const Single& single) {
    const double lanes_took = Seconds(lanes);
    lanes_ += lanes_took;
    single_ += Seconds(single);
    state.SetIterationTime(lanes_took);
  }

  // weights: of one iteration, counted once for every lane.
  void Report(benchmark::State& state, size_t weights) const {
    state.counters["lane_weights"] = benchmark::Counter(
        static_cast<double>(weights * state.iterations()), benchmark::Counter::kIsRate);
    state.counters["over_single"] = single_ / lanes_;
  }

 private:
  // Of the processor: other work on the machine counts less.
  static double ThreadSeconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }

  template <class Work>
  static double Seconds(const Work& work) {
    const double start = ThreadSeconds();
    work();
    benchmark::ClobberMemory();
    return ThreadSeconds() - start;
  }

  double lanes_ = 0;
  double single_ = 0;
};

struct LaneFloats {
  LaneFloats(size_t lanes, size_t n) : values(RandomFloats(lanes * n, 5)) {
    for (size_t l = 0; l < lanes; ++l) at.push_back(values.data() + l * n);
  }
  std::vector<float> values;
  std::vector<float*> at;
};

// As many columns as a layer of an 8B model has hidden or input units, 1024 at a time.
void ColumnLanes(benchmark::State& state, const Kernels& kernels, UnitEncoding encoding,
                 size_t elements) {
  constexpr size_t kColumns = 1024;
  const auto lanes = static_cast<size_t>(state.range(0));
  std::vector<uint8_t> column(ColumnBytes(encoding, elements));
  EncodeColumn(encoding, RandomFloats(elements, 1).data(), elements, column.data());
  std::vector<const uint8_t*> order(FillWith(column, kWorkingSetBytes));
  for (size_t i = 0; i < order.size(); ++i) order[i] = WorkingSet() + i * column.size();
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  const LaneFloats coefficients(lanes, kColumns);
  const LaneFloats y(lanes, elements);
  ByTurns turns;
  size_t next = 0;
  const auto columns = [&] {
    next = next + 2 * kColumns > order.size() ? 0 : next + kColumns;
    return order.data() + next;
  };
  for (auto _ : state) {
    turns.Run(
        state,
        [&] {
          kernels.add_columns_lanes(encoding, columns(), coefficients.at.data(), kColumns, elements,
                                    0, elements, y.at.data(), lanes);
        },
        [&] {
          for (size_t l = 0; l < lanes; ++l) {
            kernels.add_columns(encoding, columns(), coefficients.at[l], kColumns, elements, 0,
                                elements, y.at[l]);
          }
        });
  }
  turns.Report(state, lanes * kColumns * elements);
}

void MatVecOfLanes(benchmark::State& state, const Kernels& kernels, GgmlType type) {
  constexpr size_t kSize = 4096;
  const auto lanes = static_cast<size_t>(state.range(0));
  const size_t row_bytes = StaticRowBytes(type, kSize);
  std::vector<uint8_t> row(row_bytes, 0x15);  // Small, ordinary numbers in every type.
  const size_t matrices = FillWith(row, kWorkingSetBytes) / kSize;
  const LaneFloats x(lanes, kSize);
  const LaneFloats y(lanes, kSize);
  size_t next = 0;
  const auto matrix = [&] {
    next = (next + 1) % matrices;
    return MatrixView{
        .type = type,
        .data = reinterpret_cast<const std::byte*>(WorkingSet()) + next * kSize * row_bytes,
        .rows = kSize,
        .columns = kSize,
        .row_bytes = row_bytes};
  };
  ByTurns turns;
  for (auto _ : state) {
    turns.Run(
        state, [&] { kernels.mat_vec_lanes(matrix(), 0, kSize, x.at.data(), y.at.data(), lanes); },
        [&] {
          for (size_t l = 0; l < lanes; ++l) {
            kernels.mat_vec(matrix(), 0, kSize, x.at[l], y.at[l]);
          }
        });
  }
  turns.Report(state, lanes * kSize * kSize);
}

void RegisterLanes(const Kernels& kernels, bool bf16) {
  const std::string table = "/" + std::string(kernels.name);
  const auto arguments = [](benchmark::internal::Benchmark* benchmark) {
    benchmark->ArgName("lanes")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(16);
    benchmark->Unit(benchmark::kMillisecond)->UseManualTime();
  };
  for (const UnitEncoding encoding :
       {UnitEncoding::kQ4, UnitEncoding::kQ8, UnitEncoding::kF16, UnitEncoding::kF32}) {
    if (bf16 && encoding != UnitEncoding::kQ4) continue;
    for (const size_t elements : {size_t{14336}, size_t{4096}}) {
      std::string name = "columns/";
      name.append(UnitEncodingName(encoding)).append("/").append(std::to_string(elements));
      arguments(benchmark::RegisterBenchmark(name.append(table).c_str(),
                                             [&kernels, encoding, elements](auto& state) {
                                               ColumnLanes(state, kernels, encoding, elements);
                                             }));
    }
  }
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ8_0, GgmlType::kF16, GgmlType::kF32,
                              GgmlType::kQ4_K, GgmlType::kQ6_K}) {
    if (bf16 && type != GgmlType::kQ4_0) continue;
    const std::string name = "rows/" + GgmlTypeName(static_cast<uint32_t>(type)) + table;
    arguments(benchmark::RegisterBenchmark(name.c_str(), [&kernels, weights = type](auto& state) {
      MatVecOfLanes(state, kernels, weights);
    }));
  }
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  // Scalar tables are for reading, not for timing.
  for (const auto& [kernels, scalar] : tidegate::SupportedKernels()) {
    if (kernels == scalar) continue;
    const bool bf16 = scalar == &tidegate::ScalarKernels(tidegate::Precision::kFast);
    tidegate::RegisterLanes(*kernels, bf16);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
