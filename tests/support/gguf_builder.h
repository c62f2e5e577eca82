// Builds small GGUF files for tests: any metadata, any tensors, and a ready-made `llama` model with
// seeded random weights. It is a writer of its own, so that reader and writer cannot share a
// mistake.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "proto/gguf/ggml_type.h"

namespace tidegate {

class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // of tensor data; written as general.alignment only by SetUint32()

  // Each replaces a key that is there already.
  void SetUint32(const std::string& key, uint32_t value);
  void SetInt32(const std::string& key, int32_t value);
  void SetUint64(const std::string& key, uint64_t value);
  void SetFloat(const std::string& key, float value);
  void SetBool(const std::string& key, bool value);
  void SetString(const std::string& key, std::string_view value);
  void SetStrings(const std::string& key, const std::vector<std::string>& values);
  void SetFloats(const std::string& key, const std::vector<float>& values);
  void SetInt32s(const std::string& key, const std::vector<int32_t>& values);
  // Any type number with the bytes of the value as they shall lie in the file.
  void SetRaw(const std::string& key, uint32_t type, std::string bytes);
  void Remove(const std::string& key);

  // `values` row-major, dims in GGUF order (dims[0] is the row length). Replaces a tensor of that
  // name.
  void AddTensor(const std::string& name, GgmlType type, const std::vector<uint64_t>& dims,
                 const std::vector<float>& values);
  void AddRawTensor(const std::string& name, uint32_t type, const std::vector<uint64_t>& dims,
                    std::string bytes);
  void RemoveTensor(const std::string& name);

  std::string Build() const;
  void WriteTo(const std::string& path) const;

 private:
  struct Entry {
    std::string key;
    uint32_t type;
    std::string bytes;
  };
  struct Tensor {
    std::string name;
    uint32_t type;
    std::vector<uint64_t> dims;
    std::string bytes;
  };

  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
};

// One row in a GGUF tensor type, e.g. for comparing with what a reader decodes.
std::string EncodeGgmlRow(GgmlType type, const float* values, size_t elements);

// A `llama` model. The tokenizer is SentencePiece-style: <unk>, <s>, </s>, 256 byte tokens, then
// the pieces
// "\u2581", a..z, and as many made-up ones as the vocabulary needs.
struct TestModel {
  uint32_t layers = 2;
  uint32_t hidden = 64;
  uint32_t intermediate = 96;
  uint32_t heads = 4;
  uint32_t kv_heads = 2;
  uint32_t vocab = 320;  // rows of embedding and head; at least 286
  uint32_t tokens = 0;   // of the tokenizer; 0: as many as rows
  uint32_t context = 128;
  GgmlType matrices = GgmlType::kF32;
  GgmlType norms = GgmlType::kF32;
  bool tied = false;        // no output.weight
  bool rope_freqs = false;  // factors as Llama 3 has
  uint32_t window = 0;      // 0: none
  float attention_cap = 0;  // 0: none
  uint32_t experts = 0;     // 0: plain MLPs
  uint32_t experts_used = 0;
  bool experts_apart = false;  // a tensor for each expert's matrix
  uint32_t seed = 1;
};
GgufBuilder LlamaGguf(const TestModel& model);

}  // namespace tidegate
