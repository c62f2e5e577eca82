// A tiny random model behind a real store in this process: pack, region, socket, leases and all.
#pragma once

#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/decoder.h"
#include "engine/model.h"
#include "engine/single_sequence.h"
#include "packer/pack_writer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"
#include "weightstore/store.h"

namespace tidegate {

struct LocalStoreOptions {
  TestModel model;
  PackOptions pack = {.units = UnitEncoding::kQ8};
  StoreOptions store;
  std::function<void(GgufBuilder&)> change = {};  // of the model, before it is packed
};

// A running store on a fresh pack.
class LocalStore {
 public:
  explicit LocalStore(LocalStoreOptions options = {}) : options_(std::move(options)) {
    static std::atomic<int> counter = 0;
    gguf_path_ = dir_.File("model.gguf");
    GgufBuilder gguf = LlamaGguf(options_.model);
    if (options_.change) options_.change(gguf);
    gguf.WriteTo(gguf_path_);
    const auto source = SourceModel::Open(gguf_path_);
    CHECK(source.ok());
    options_.store.pack_path = dir_.File("model.tgpack");
    CHECK(WritePack(*source, options_.store.pack_path, options_.pack, nullptr).ok());
    options_.store.socket_path = dir_.File("store.sock");
    options_.store.region_path =
        absl::StrCat("/dev/shm/tidegate_test_", getpid(), "_", counter.fetch_add(1));
    if (options_.store.memory_budget_bytes == 0 && !options_.store.cache_fraction.has_value()) {
      options_.store.cache_fraction = 1.0;
    }
    Start();
  }
  ~LocalStore() {
    store_.reset();
    unlink(options_.store.region_path.c_str());
  }

  void Start() {
    auto store = Store::Create(options_.store);
    if (!store.ok()) std::fprintf(stderr, "%s\n", store.status().ToString().c_str());
    CHECK(store.ok());
    store_ = *std::move(store);
    CHECK(store_->Start().ok());
  }
  void Stop() { store_.reset(); }

  const std::string& socket() const { return options_.store.socket_path; }
  const std::string& pack_path() const { return options_.store.pack_path; }
  const Store& store() const { return *store_; }

 private:
  TempDir dir_;
  LocalStoreOptions options_;
  std::string gguf_path_;
  std::unique_ptr<Store> store_;
};

// A decoder attached to such a store.
struct LocalDecoder {
  explicit LocalDecoder(const LocalStore& store, uint32_t threads = 1, bool overlap = true,
                        const std::vector<LoraSource>& adapters = {})
      : pool(threads) {
    // The store frees the place of an engine that has left a moment after it left: ask again.
    auto attached = WeightClient::Attach(store.socket(), "test");
    WaitUntil(
        [&] {
          if (!attached.ok()) attached = WeightClient::Attach(store.socket(), "test");
          return attached.ok();
        },
        std::chrono::seconds(10));
    CHECK(attached.ok());
    client = *std::move(attached);
    auto made = MakeModel(*client, adapters);
    CHECK(made.ok());
    model = *std::move(made);
    decoder = std::make_unique<Decoder>(model.get(), client.get(), &pool, overlap);
    units = std::make_unique<LeasedUnits>(client.get());
  }

  std::unique_ptr<WeightClient> client;
  std::unique_ptr<const Model> model;
  ThreadPool pool;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<LeasedUnits> units;  // for an MLP of the test's own
};

}  // namespace tidegate
