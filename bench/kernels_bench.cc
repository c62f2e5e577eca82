// The engine's kernels on one core and on all of them ("/cores"), as bytes of weights per second
// and as a share of what the same number of cores can read at all ("share_of_read": the plain sum
// of read_memory = 1, measured at start). Weights of the large cases come from a working set far
// above the last cache and are visited in random order, as resident units are. Pages of 2 MiB, as
// the region has where the kernel gives them; TIDEGATE_BENCH_SMALL_PAGES=1 takes pages of 4 KiB.
//
//   kernels_bench --benchmark_filter='add_columns/q4'
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench/working_set.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/matmul.h"
#include "engine/kv/kv_cache.h"
#include "engine/thread_pool.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

uint64_t SumOf(const uint8_t* memory, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t at = 0; at < bytes; at += sizeof(sums)) {
    uint64_t line[8];
    std::memcpy(line, memory + at, sizeof(line));
    for (size_t i = 0; i < 8; ++i) sums[i] += line[i];
  }
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

// One pool of one thread, one of all cores.
ThreadPool& Pool(bool cores) {
  static ThreadPool one(1);
  static ThreadPool all(0);
  return cores ? all : one;
}

void ReadAll(bool cores) {
  Pool(cores).For(kWorkingSetBytes, 4096, kWorkingSetBytes, [](size_t begin, size_t end) {
    benchmark::DoNotOptimize(SumOf(WorkingSet() + begin, end - begin));
  });
}

// Bytes per second of the plain sum, the best of five.
double PlainReadRate(bool cores) {
  static const auto measure = [](bool all) {
    double best = 0;
    for (int i = 0; i < 5; ++i) {
      const auto start = std::chrono::steady_clock::now();
      ReadAll(all);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(kWorkingSetBytes) / took.count());
    }
    return best;
  };
  static const double rates[] = {measure(false), measure(true)};
  return rates[cores ? 1 : 0];
}

void Report(benchmark::State& state, size_t bytes_per_iteration, bool cores = false) {
  const double bytes = static_cast<double>(bytes_per_iteration * state.iterations());
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
  // Google Benchmark divides a rate by the seconds and prints "/s": the number is the share.
  state.counters["share_of_read"] =
      benchmark::Counter(bytes / PlainReadRate(cores), benchmark::Counter::kIsRate);
}

void ReadMemory(benchmark::State& state, bool cores) {
  for (auto _ : state) ReadAll(cores);
  Report(state, kWorkingSetBytes, cores);
}

struct ColumnCase {
  UnitEncoding encoding;
  size_t elements;          // of one column
  size_t columns_per_unit;  // 2: gate and up
  size_t units;             // added per iteration
  size_t working_set_bytes;
  bool cores = false;  // all of them, work divided as the MLP divides it
};

// One layer's input side: the gate columns of the selected units, then their up columns.
void AddColumns(benchmark::State& state, const Kernels& kernels, const ColumnCase& c) {
  const size_t column_bytes = ColumnBytes(c.encoding, c.elements);
  std::vector<uint8_t> unit(column_bytes * c.columns_per_unit);
  for (size_t i = 0; i < c.columns_per_unit; ++i) {
    const std::vector<float> values = RandomFloats(c.elements, static_cast<uint32_t>(i));
    EncodeColumn(c.encoding, values.data(), c.elements, unit.data() + i * column_bytes);
  }
  std::vector<const uint8_t*> order(FillWith(unit, c.working_set_bytes));
  for (size_t i = 0; i < order.size(); ++i) order[i] = WorkingSet() + i * unit.size();
  std::shuffle(order.begin(), order.end(), std::mt19937(7));

  // Chains of columns, as the MLP divides them among threads: gate and up, or eight of down.
  const size_t chains = c.columns_per_unit == 2 ? 2 : 8;
  const size_t count = c.columns_per_unit == 2 ? c.units : c.units / chains;
  const std::vector<float> coefficients = RandomFloats(c.units, 3);
  std::vector<float> y(chains * c.elements);
  std::vector<const uint8_t*> columns(chains * count);
  size_t next = 0;
  for (auto _ : state) {
    if (next + c.units > order.size()) next = 0;
    for (size_t i = 0; i < columns.size(); ++i) {
      columns[i] = c.columns_per_unit == 2 ? order[next + i % count] + i / count * column_bytes
                                           : order[next + i];
    }
    Pool(c.cores).For(
        chains * c.elements, 64, columns.size() * column_bytes, [&](size_t begin, size_t end) {
          for (size_t chain = begin / c.elements; chain * c.elements < end; ++chain) {
            const size_t first = std::max(begin, chain * c.elements) - chain * c.elements;
            const size_t last = std::min(end - chain * c.elements, c.elements);
            kernels.add_columns(c.encoding, columns.data() + chain * count, coefficients.data(),
                                count, c.elements, first, last, y.data() + chain * c.elements);
          }
        });
    next += c.units;
    benchmark::ClobberMemory();
  }
  Report(state, columns.size() * column_bytes, c.cores);
}

void MatVec(benchmark::State& state, const Kernels& kernels, GgmlType type, bool cores) {
  constexpr size_t kSize = 4096;
  const size_t row_bytes = StaticRowBytes(type, kSize);
  std::vector<uint8_t> row(row_bytes, 0x15);  // Small, ordinary numbers in every type.
  const size_t matrices = FillWith(row, kWorkingSetBytes) / kSize;
  const std::vector<float> x = RandomFloats(kSize, 2);
  std::vector<float> y(kSize);
  size_t next = 0;
  for (auto _ : state) {
    const auto* data = reinterpret_cast<const std::byte*>(WorkingSet()) + next * kSize * row_bytes;
    const MatrixView w = {
        .type = type, .data = data, .rows = kSize, .columns = kSize, .row_bytes = row_bytes};
    Pool(cores).For(kSize, 16, kSize * row_bytes, [&](size_t begin, size_t end) {
      kernels.mat_vec(w, begin, end, x.data(), y.data());
    });
    next = (next + 1) % matrices;
    benchmark::ClobberMemory();
  }
  Report(state, kSize * row_bytes, cores);
}

void ReportProducts(benchmark::State& state, size_t products_per_iteration) {
  state.counters["multiply_adds"] =
      benchmark::Counter(static_cast<double>(products_per_iteration * state.iterations()),
                         benchmark::Counter::kIsRate);
}

// Packs `tokens` x `depth` random numbers.
std::vector<uint64_t> PackedTokens(const MatmulKernels& kernels, size_t tokens, size_t depth) {
  const std::vector<float> x = RandomFloats(tokens * depth, 2);
  std::vector<uint64_t> packed(kernels.packed_bytes(tokens, depth) / sizeof(uint64_t) + 1);
  kernels.pack({x.data(), depth, nullptr, depth, tokens}, 0, tokens, packed.data());
  return packed;
}

// 256 columns of an 8B model's input side, for as many tokens as the argument says.
void MatmulColumns(benchmark::State& state, const MatmulKernels& kernels, UnitEncoding encoding) {
  constexpr size_t kElements = 14336;
  constexpr size_t kUnits = 256;
  const auto tokens = static_cast<size_t>(state.range(0));
  std::vector<uint8_t> unit(ColumnBytes(encoding, kElements));
  EncodeColumn(encoding, RandomFloats(kElements, 1).data(), kElements, unit.data());
  const size_t copies = FillWith(unit, kWorkingSetBytes);
  std::vector<const uint8_t*> columns(kUnits);
  const std::vector<uint64_t> packed = PackedTokens(kernels, tokens, kUnits);
  std::vector<float> y(tokens * kElements);
  size_t next = 0;
  for (auto _ : state) {
    for (const uint8_t*& column : columns) {
      column = WorkingSet() + next * unit.size();
      next = (next + 1) % copies;
    }
    kernels.add_columns({encoding, columns.data(), kUnits, kElements}, 0, kElements, packed.data(),
                        tokens, y.data(), kElements);
    benchmark::ClobberMemory();
  }
  ReportProducts(state, tokens * kUnits * kElements);
}

void MatmulRows(benchmark::State& state, const MatmulKernels& kernels, GgmlType type) {
  constexpr size_t kSize = 4096;
  const auto tokens = static_cast<size_t>(state.range(0));
  const size_t row_bytes = StaticRowBytes(type, kSize);
  std::vector<uint8_t> row(row_bytes, 0x15);  // Small, ordinary numbers in every type.
  const size_t matrices = FillWith(row, kWorkingSetBytes) / kSize;
  const std::vector<uint64_t> packed = PackedTokens(kernels, tokens, kSize);
  std::vector<float> y(tokens * kSize);
  size_t next = 0;
  for (auto _ : state) {
    const auto* data = reinterpret_cast<const std::byte*>(WorkingSet()) + next * kSize * row_bytes;
    const MatrixView w = {
        .type = type, .data = data, .rows = kSize, .columns = kSize, .row_bytes = row_bytes};
    kernels.multiply_rows(w, 0, kSize, packed.data(), tokens, y.data(), kSize);
    next = (next + 1) % matrices;
    benchmark::ClobberMemory();
  }
  ReportProducts(state, tokens * kSize * kSize);
}

void MatmulPack(benchmark::State& state, const MatmulKernels& kernels) {
  constexpr size_t kTokens = 256;
  constexpr size_t kDepth = 4096;
  const std::vector<float> x = RandomFloats(kTokens * kDepth, 2);
  std::vector<uint64_t> packed = PackedTokens(kernels, kTokens, kDepth);
  for (auto _ : state) {
    kernels.pack({x.data(), kDepth, nullptr, kDepth, kTokens}, 0, kTokens, packed.data());
    benchmark::ClobberMemory();
  }
  Report(state, kTokens * kDepth * sizeof(float));
}

// One head over 2048 positions in pages, as a sequence of a model with 8 layers and 8 key/value
// heads has them; bytes are those of keys and values.
void Attend(benchmark::State& state, const Kernels& kernels, KvType type) {
  constexpr uint32_t kTokens = 2048;
  ModelConfig config;
  config.layer_count = 8;
  config.kv_heads = 8;
  config.head_size = 128;
  KvPool pool = KvPool::ForTokens(config, type, kTokens);
  KvCache kv(&pool, kTokens);
  if (!kv.Grow(kTokens).ok()) return state.SkipWithError("no memory");
  const std::vector<float> rows = RandomFloats(size_t{kTokens} * config.kv_size(), 1);
  for (uint32_t t = 0; t < kTokens; ++t) {
    kv.Store(kernels, 3, t, rows.data() + size_t{t} * config.kv_size(),
             rows.data() + size_t{t} * config.kv_size());
  }
  const std::vector<float> query = RandomFloats(config.head_size, 2);
  std::vector<float> scores(kTokens);
  std::vector<float> out(config.head_size);
  for (auto _ : state) {
    kernels.attend(query.data(), kv.View(3, 5), 0, kTokens, config.head_size, 0.1f, 0,
                   scores.data(), out.data());
    benchmark::ClobberMemory();
  }
  Report(state, 2 * kTokens * KvRowBytes(type, config.head_size));
}

void SiluMultiply(benchmark::State& state, const Kernels& kernels) {
  constexpr size_t kSize = 14336;
  const std::vector<float> gate = RandomFloats(kSize, 1);
  const std::vector<float> up = RandomFloats(kSize, 2);
  std::vector<float> h(kSize);
  for (auto _ : state) {
    kernels.silu_multiply(gate.data(), up.data(), kSize, h.data());
    benchmark::ClobberMemory();
  }
  Report(state, 2 * kSize * sizeof(float));
}

// bf16: only what differs from f32 is registered, here and below.
void RegisterColumns(const Kernels& kernels, bool bf16) {
  const std::string table(kernels.name);
  for (const UnitEncoding encoding :
       {UnitEncoding::kQ4, UnitEncoding::kQ8, UnitEncoding::kF16, UnitEncoding::kF32}) {
    if (bf16 && encoding != UnitEncoding::kQ4) continue;
    std::string name = "/";
    name.append(UnitEncodingName(encoding)).append("/").append(table);
    // Demo model, hidden 768, density 0.5: the columns stay in the second cache.
    const ColumnCase demo = {encoding, 768, 1, 204, 204 * ColumnBytes(encoding, 768)};
    benchmark::RegisterBenchmark(
        ("add_columns/demo" + name).c_str(),
        [&kernels, demo](auto& state) { AddColumns(state, kernels, demo); });
    for (const bool cores : {false, true}) {
      // An 8B model: intermediate size 14336, 2350 of 4096 input units; 5030 hidden units.
      const ColumnCase input = {encoding, 14336, 2, 2350, kWorkingSetBytes, cores};
      const ColumnCase hidden = {encoding, 4096, 1, 5030, kWorkingSetBytes, cores};
      for (const ColumnCase& c : {input, hidden}) {
        const std::string label = std::string("add_columns/8b_") +
                                  (c.columns_per_unit == 2 ? "input" : "hidden") + name +
                                  (cores ? "/cores" : "");
        benchmark::RegisterBenchmark(label.c_str(),
                                     [&kernels, c](auto& state) { AddColumns(state, kernels, c); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
      }
    }
  }
}

void RegisterOthers(const Kernels& kernels, bool bf16) {
  const std::string table(kernels.name);
  const std::pair<const char*, GgmlType> types[] = {
      {"Q4_0", GgmlType::kQ4_0}, {"Q8_0", GgmlType::kQ8_0}, {"Q4_K", GgmlType::kQ4_K},
      {"Q6_K", GgmlType::kQ6_K}, {"F16", GgmlType::kF16},   {"F32", GgmlType::kF32}};
  for (const auto& [name, type] : types) {
    if (bf16 && type != GgmlType::kQ4_0) continue;
    for (const bool cores : {false, true}) {
      benchmark::RegisterBenchmark(
          (std::string("mat_vec/") + name + "/" + table + (cores ? "/cores" : "")).c_str(),
          [&kernels, weights = type, cores](auto& state) {
            MatVec(state, kernels, weights, cores);
          })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
  }
  if (bf16) return;
  for (const auto& [name, type] :
       {std::pair("f16", KvType::kF16), {"q8", KvType::kQ8}, {"f32", KvType::kF32}}) {
    benchmark::RegisterBenchmark(
        (std::string("attend/") + name + "/" + table).c_str(),
        [&kernels, kept = type](auto& state) { Attend(state, kernels, kept); });
  }
  benchmark::RegisterBenchmark(("silu_multiply/" + table).c_str(),
                               [&kernels](auto& state) { SiluMultiply(state, kernels); });
}

void RegisterMatmul(const MatmulKernels& kernels) {
  const std::string table(kernels.name);
  const auto arguments = [](benchmark::internal::Benchmark* benchmark) {
    benchmark->Arg(16)->Arg(64)->Arg(256)->Arg(512)->Unit(benchmark::kMillisecond);
  };
  for (const UnitEncoding encoding :
       {UnitEncoding::kQ4, UnitEncoding::kQ8, UnitEncoding::kF16, UnitEncoding::kF32}) {
    std::string name = "matmul_columns/";
    name.append(UnitEncodingName(encoding)).append("/").append(table);
    arguments(benchmark::RegisterBenchmark(name.c_str(), [&kernels, encoding](auto& state) {
      MatmulColumns(state, kernels, encoding);
    }));
  }
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ8_0, GgmlType::kF16, GgmlType::kF32}) {
    std::string name = "matmul_rows/";
    name.append(GgmlTypeName(static_cast<uint32_t>(type))).append("/").append(table);
    arguments(benchmark::RegisterBenchmark(name.c_str(), [&kernels, weights = type](auto& state) {
      MatmulRows(state, kernels, weights);
    }));
  }
  benchmark::RegisterBenchmark(("matmul_pack/" + table).c_str(),
                               [&kernels](auto& state) { MatmulPack(state, kernels); });
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  tidegate::PlainReadRate(false);  // Before any timing: this also touches the memory first.
  for (const bool cores : {false, true}) {
    benchmark::RegisterBenchmark(cores ? "read_memory/cores" : "read_memory",
                                 [cores](auto& state) { tidegate::ReadMemory(state, cores); })
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  }
  // Scalar tables are for reading, not for timing.
  for (const auto& [kernels, scalar] : tidegate::SupportedKernels()) {
    if (kernels == scalar) continue;
    const bool bf16 = scalar == &tidegate::ScalarKernels(tidegate::Precision::kFast);
    tidegate::RegisterColumns(*kernels, bf16);
    tidegate::RegisterOthers(*kernels, bf16);
  }
  for (const tidegate::SupportedMatmul& matmul : tidegate::SupportedMatmuls()) {
    if (matmul.kernels != matmul.scalar) tidegate::RegisterMatmul(*matmul.kernels);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
