// A model for the oracle commands (logits, eval, bench): store and engine inside this process, over
// the same pack, region, socket, leases and kernels as the daemons use. Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/decoder.h"
#include "engine/tokenizer.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/pack/pack_writer.h"
#include "weightstore/store.h"

namespace tidegate {

struct LocalModelOptions {
  std::string model;  // a GGUF file or Hugging Face folder, packed on the fly, or a pack
  UnitEncoding units = UnitEncoding::kQ8;  // for a GGUF file, as the next two
  bool one_unit_per_block = false;         // for a GGUF file
  std::vector<LoraSource> adapters;        // for a GGUF file; merged while packing
  StoreOptions store;                      // pack, socket and region paths are filled in
  // The engine reserve becomes the f16 KV cache of this many positions; unset: as store says.
  std::optional<uint64_t> kv_tokens;
  uint32_t threads = 0;
  uint32_t prefill_chunk_tokens = 256;
  bool overlap = true;
};

class LocalModel {
 public:
  // Temporary files are private and lose their names as soon as store and client are up: a process
  // that is killed later leaves nothing behind.
  static absl::StatusOr<std::unique_ptr<LocalModel>> Open(const LocalModelOptions& options);
  ~LocalModel();

  const Model& model() const { return *model_; }
  const store::v1::Manifest& manifest() const { return client_->manifest(); }
  const Store& store() const { return *store_; }
  WeightClient& client() { return *client_; }
  Decoder& decoder() { return *decoder_; }

 private:
  LocalModel() = default;
  void RemoveFolders();
  absl::Status PackIfNeeded(const LocalModelOptions& options, std::string& pack_path);

  std::string folder_;      // temporary
  std::string shm_folder_;  // temporary, on tmpfs
  std::unique_ptr<Store> store_;
  std::unique_ptr<WeightClient> client_;
  std::unique_ptr<const Model> model_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace tidegate
