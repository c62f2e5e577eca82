// Cost of the way between engine and store: acquire, answer, release over the shared ring, every
// unit resident (no I/O). Uses the demo model of models/, so run it from the repository's root.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "packer/pack_writer.h"
#include "weightstore/client/weight_client.h"
#include "weightstore/store.h"

namespace tidegate {
namespace {

// Store and client on a pack of the demo model with one unit per block.
struct Setup {
  Setup() {
    const auto source = SourceModel::Open("models/stories-7M.f16.gguf");
    CHECK(source.ok());
    folder = absl::StrCat("/dev/shm/tidegate-lease-bench-", getpid());
    std::filesystem::create_directory(folder);
    CHECK(WritePack(*source, folder + "/model.tgpack", {.one_unit_per_block = true}, nullptr).ok());
    StoreOptions options;
    options.pack_path = folder + "/model.tgpack";
    options.socket_path = folder + "/store.sock";
    options.region_path = folder + "/region";
    options.cache_fraction = 1.0;
    store = *Store::Create(options);
    CHECK(store->Start().ok());
    client = *WeightClient::Attach(options.socket_path, "lease_bench");
  }
  ~Setup() {
    client.reset();
    store.reset();
    std::filesystem::remove_all(folder);
  }

  std::string folder;
  std::unique_ptr<Store> store;
  std::unique_ptr<WeightClient> client;
};

void BM_AcquireRelease(benchmark::State& state) {
  Setup setup;
  std::vector<WantedBlock> wanted;
  for (uint32_t block = 0; block < state.range(0); ++block) wanted.push_back({block, 1});
  for (auto _ : state) {
    auto lease = setup.client->Acquire(0, UnitKind::kHidden, wanted, LeaseMode::kSelect);
    CHECK(lease.ok());
    for (size_t i = 0; i < wanted.size(); ++i) CHECK(lease->Wait(i).ok());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_AcquireRelease)->Arg(1)->Arg(64)->Arg(768)->UseRealTime();

}  // namespace
}  // namespace tidegate

BENCHMARK_MAIN();
