// A model for the oracle commands (logits, eval, bench): store and engine inside this process, over
// the same pack, region, socket, leases and kernels as the daemons use. Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "engine/decoder.h"
#include "engine/tokenizer/tokenizer.h"
#include "packer/pack_options.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/store.h"

namespace tidegate {

// True if the file starts with a pack's magic. What is short or missing is left to the readers'
// errors.
bool StartsAsPack(const std::string& path);

// From the head of a pack or of what can be packed.
absl::StatusOr<store::v1::HyperParameters> HyperParametersOf(const std::string& model);
// Experts of a mixture, 0 of plain MLPs.
absl::StatusOr<uint32_t> ExpertsOf(const std::string& model);

struct LocalModelOptions {
  // A pack, or what can be packed (a GGUF file, a Hugging Face folder): then the next three count.
  std::string model;
  UnitEncoding units = UnitEncoding::kQ8;
  bool one_unit_per_block = false;
  std::vector<LoraSource> adapters;  // merged while packing, or beside a pack's weights
  StoreOptions store;                // pack, socket and region paths are filled in
  // How keys and values will be kept. Heads that do not fit it are refused before packing.
  KvType kv_type = KvType::kF32;
  // The engine reserve becomes the KV cache of this many positions; unset: as store says.
  std::optional<uint64_t> kv_tokens;
  uint32_t threads = 0;
  uint32_t prefill_chunk_tokens = 256;
  bool overlap = true;
};

// A pack, made here if the model is none. What is made has no name once Open() has returned: a
// process that is killed later leaves nothing behind.
class PackedModel {
 public:
  static absl::StatusOr<PackedModel> Open(const LocalModelOptions& options);

  // For this process, as long as the object lives.
  const std::string& path() const { return path_; }
  // What is not merged into it.
  const std::vector<LoraSource>& adapters() const { return adapters_; }

 private:
  std::string path_;
  std::vector<LoraSource> adapters_;
  UniqueFd fd_;  // of a pack made here
};

class LocalModel {
 public:
  // Temporary files are private and lose their names as soon as store and client are up. The second
  // form opens a pack that may be opened several times; of options.model and what goes with it
  // nothing is used.
  static absl::StatusOr<std::unique_ptr<LocalModel>> Open(const LocalModelOptions& options);
  static absl::StatusOr<std::unique_ptr<LocalModel>> Open(const LocalModelOptions& options,
                                                          const PackedModel& packed);
  ~LocalModel();

  const Model& model() const { return *model_; }
  const store::v1::Manifest& manifest() const { return client_->manifest(); }
  const Store& store() const { return *store_; }
  WeightClient& client() { return *client_; }
  const WeightClient& client() const { return *client_; }
  Decoder& decoder() { return *decoder_; }
  uint32_t chunk_tokens() const { return chunk_tokens_; }  // of prompts, at most

 private:
  LocalModel() = default;

  std::optional<PackedModel> packed_;  // of the first form of Open()
  std::unique_ptr<Store> store_;
  std::unique_ptr<WeightClient> client_;
  std::unique_ptr<const Model> model_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Decoder> decoder_;
  uint32_t chunk_tokens_ = 1;
};

}  // namespace tidegate
