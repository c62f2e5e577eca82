#include "tests/support/gguf_builder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tests/support/test_support.h"

namespace tidegate {
namespace {

// Type numbers of metadata values.
enum : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10 };

template <typename T>
std::string Bytes(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string SizedText(std::string_view text) {
  return Bytes(static_cast<uint64_t>(text.size())) + std::string(text);
}

std::string ArrayHead(uint32_t type, size_t count) {
  return Bytes(type) + Bytes(static_cast<uint64_t>(count));
}

void PadTo(std::string& out, uint64_t alignment) {
  out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
}

float Extreme(const float* group) {
  return *std::max_element(group, group + 32,
                           [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

std::string EncodeQ8Block(const float* group) {
  const uint16_t scale = FloatToHalf(std::fabs(Extreme(group)) / 127);
  std::string out = Bytes(scale);
  for (int i = 0; i < 32; ++i) {
    const float d = HalfToFloat(scale);
    const float code = d > 0 ? std::clamp(std::round(group[i] / d), -127.0f, 127.0f) : 0;
    out += static_cast<char>(static_cast<int8_t>(code));
  }
  return out;
}

std::string EncodeQ4Block(const float* group) {
  const uint16_t scale = FloatToHalf(Extreme(group) / -8);
  std::string out = Bytes(scale);
  const auto code = [&](int i) {
    const float d = HalfToFloat(scale);
    return static_cast<int>(d != 0 ? std::clamp(std::round(group[i] / d) + 8, 0.0f, 15.0f) : 8);
  };
  for (int i = 0; i < 16; ++i) out += static_cast<char>(code(i) | code(i + 16) << 4);
  return out;
}

uint16_t ToBfloat16(float value) {  // Round to nearest, ties to even; no NaN in tests.
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void AddTokenizer(GgufBuilder& gguf, uint32_t vocab) {
  CHECK(vocab >= 286);
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<float> scores = {0, 0, 0};
  std::vector<int32_t> types = {2, 3, 3};
  static constexpr char kHex[] = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) {
    tokens.push_back(std::string("<0x") + kHex[b / 16] + kHex[b % 16] + ">");
  }
  types.resize(259, 6);
  tokens.push_back("\xe2\x96\x81");
  for (char c = 'a'; c <= 'z'; ++c) tokens.push_back(std::string(1, c));
  while (tokens.size() < vocab) {
    const size_t n = tokens.size() - 286;
    tokens.push_back(std::string(1, static_cast<char>('a' + n % 26)) +
                     std::string(1 + n / 26, static_cast<char>('a' + n / 26 % 26)));
  }
  types.resize(vocab, 1);
  scores.resize(259, 0);
  for (uint32_t i = 259; i < vocab; ++i) scores.push_back(-static_cast<float>(i));
  gguf.SetString("tokenizer.ggml.model", "llama");
  gguf.SetStrings("tokenizer.ggml.tokens", tokens);
  gguf.SetFloats("tokenizer.ggml.scores", scores);
  gguf.SetInt32s("tokenizer.ggml.token_type", types);
  gguf.SetUint32("tokenizer.ggml.bos_token_id", 1);
  gguf.SetUint32("tokenizer.ggml.eos_token_id", 2);
  gguf.SetUint32("tokenizer.ggml.unknown_token_id", 0);
}

std::vector<float> Normal(std::mt19937& random, size_t count, float mean, float deviation) {
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

void AddWeights(GgufBuilder& gguf, const TestModel& model) {
  std::mt19937 random(model.seed);
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t columns) {
    const float deviation = 1 / std::sqrt(static_cast<float>(columns));
    gguf.AddTensor(name, model.matrices, {columns, rows},
                   Normal(random, rows * columns, 0, deviation));
  };
  // Of one MLP, or of all experts: together in a tensor, or apart.
  const auto mlp_matrix = [&](const std::string& name, uint64_t rows, uint64_t columns) {
    if (model.experts == 0) return matrix(name + ".weight", rows, columns);
    const uint64_t size = rows * columns;
    const float deviation = 1 / std::sqrt(static_cast<float>(columns));
    const std::vector<float> all = Normal(random, model.experts * size, 0, deviation);
    if (!model.experts_apart) {
      gguf.AddTensor(name + "_exps.weight", model.matrices, {columns, rows, model.experts}, all);
      return;
    }
    for (uint64_t e = 0; e < model.experts; ++e) {
      const auto first = all.begin() + static_cast<ptrdiff_t>(e * size);
      gguf.AddTensor(name + "." + std::to_string(e) + ".weight", model.matrices, {columns, rows},
                     {first, first + static_cast<ptrdiff_t>(size)});
    }
  };
  const auto norm = [&](const std::string& name) {
    gguf.AddTensor(name, model.norms, {model.hidden}, Normal(random, model.hidden, 1, 0.1f));
  };
  const uint32_t kv = model.hidden / model.heads * model.kv_heads;
  matrix("token_embd.weight", model.vocab, model.hidden);
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    norm(prefix + "attn_norm.weight");
    matrix(prefix + "attn_q.weight", model.hidden, model.hidden);
    matrix(prefix + "attn_k.weight", kv, model.hidden);
    matrix(prefix + "attn_v.weight", kv, model.hidden);
    matrix(prefix + "attn_output.weight", model.hidden, model.hidden);
    norm(prefix + "ffn_norm.weight");
    if (model.experts > 0) matrix(prefix + "ffn_gate_inp.weight", model.experts, model.hidden);
    mlp_matrix(prefix + "ffn_gate", model.intermediate, model.hidden);
    mlp_matrix(prefix + "ffn_up", model.intermediate, model.hidden);
    mlp_matrix(prefix + "ffn_down", model.hidden, model.intermediate);
  }
  norm("output_norm.weight");
  if (!model.tied) matrix("output.weight", model.vocab, model.hidden);
  const uint32_t pairs = model.hidden / model.heads / 2;
  if (model.rope_freqs) {
    gguf.AddTensor("rope_freqs.weight", GgmlType::kF32, {pairs}, std::vector<float>(pairs, 2.0f));
  }
}

}  // namespace

void GgufBuilder::SetRaw(const std::string& key, uint32_t type, std::string bytes) {
  Remove(key);
  entries_.push_back({key, type, std::move(bytes)});
}
void GgufBuilder::SetUint32(const std::string& key, uint32_t value) {
  SetRaw(key, kU32, Bytes(value));
}
void GgufBuilder::SetInt32(const std::string& key, int32_t value) {
  SetRaw(key, kI32, Bytes(value));
}
void GgufBuilder::SetUint64(const std::string& key, uint64_t value) {
  SetRaw(key, kU64, Bytes(value));
}
void GgufBuilder::SetFloat(const std::string& key, float value) { SetRaw(key, kF32, Bytes(value)); }
void GgufBuilder::SetBool(const std::string& key, bool value) {
  SetRaw(key, kBool, std::string(1, value ? '\1' : '\0'));
}
void GgufBuilder::SetString(const std::string& key, std::string_view value) {
  SetRaw(key, kString, SizedText(value));
}
void GgufBuilder::SetStrings(const std::string& key, const std::vector<std::string>& values) {
  std::string bytes = ArrayHead(kString, values.size());
  for (const std::string& value : values) bytes += SizedText(value);
  SetRaw(key, kArray, bytes);
}
void GgufBuilder::SetFloats(const std::string& key, const std::vector<float>& values) {
  std::string bytes = ArrayHead(kF32, values.size());
  for (const float value : values) bytes += Bytes(value);
  SetRaw(key, kArray, bytes);
}
void GgufBuilder::SetInt32s(const std::string& key, const std::vector<int32_t>& values) {
  std::string bytes = ArrayHead(kI32, values.size());
  for (const int32_t value : values) bytes += Bytes(value);
  SetRaw(key, kArray, bytes);
}
void GgufBuilder::Remove(const std::string& key) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.key == key; });
}

void GgufBuilder::AddTensor(const std::string& name, GgmlType type,
                            const std::vector<uint64_t>& dims, const std::vector<float>& values) {
  CHECK(!dims.empty() && values.size() % dims[0] == 0);
  std::string bytes;
  for (size_t row = 0; row < values.size() / dims[0]; ++row) {
    bytes += EncodeGgmlRow(type, values.data() + row * dims[0], dims[0]);
  }
  AddRawTensor(name, static_cast<uint32_t>(type), dims, std::move(bytes));
}
void GgufBuilder::AddRawTensor(const std::string& name, uint32_t type,
                               const std::vector<uint64_t>& dims, std::string bytes) {
  RemoveTensor(name);
  tensors_.push_back({name, type, dims, std::move(bytes)});
}
void GgufBuilder::RemoveTensor(const std::string& name) {
  std::erase_if(tensors_, [&](const Tensor& tensor) { return tensor.name == name; });
}

std::string GgufBuilder::Build() const {
  std::string out = "GGUF" + Bytes(version) + Bytes(static_cast<uint64_t>(tensors_.size())) +
                    Bytes(static_cast<uint64_t>(entries_.size()));
  for (const Entry& entry : entries_) out += SizedText(entry.key) + Bytes(entry.type) + entry.bytes;
  std::string data;
  for (const Tensor& tensor : tensors_) {
    PadTo(data, alignment);
    out += SizedText(tensor.name) + Bytes(static_cast<uint32_t>(tensor.dims.size()));
    for (const uint64_t n : tensor.dims) out += Bytes(n);
    out += Bytes(tensor.type) + Bytes(static_cast<uint64_t>(data.size()));
    data += tensor.bytes;
  }
  PadTo(data, alignment);
  PadTo(out, alignment);
  return out + data;
}

void GgufBuilder::WriteTo(const std::string& path) const { WriteFileOrDie(path, Build()); }

std::string EncodeGgmlRow(GgmlType type, const float* values, size_t elements) {
  std::string out;
  const size_t step = GgmlBlockElements(type);
  CHECK(elements % step == 0);
  for (size_t i = 0; i < elements; i += step) {
    switch (type) {
      case GgmlType::kF32:
        out += Bytes(values[i]);
        break;
      case GgmlType::kF16:
        out += Bytes(FloatToHalf(values[i]));
        break;
      case GgmlType::kBF16:
        out += Bytes(ToBfloat16(values[i]));
        break;
      case GgmlType::kQ8_0:
        out += EncodeQ8Block(values + i);
        break;
      case GgmlType::kQ4_0:
        out += EncodeQ4Block(values + i);
        break;
      default:
        CHECK(false);  // No encoder: see random_blocks.h.
    }
  }
  return out;
}

GgufBuilder LlamaGguf(const TestModel& model) {
  GgufBuilder gguf;
  gguf.SetString("general.architecture", "llama");
  gguf.SetString("general.name", "test-llama");
  gguf.SetUint32("llama.context_length", model.context);
  gguf.SetUint32("llama.embedding_length", model.hidden);
  gguf.SetUint32("llama.block_count", model.layers);
  gguf.SetUint32("llama.feed_forward_length", model.intermediate);
  gguf.SetUint32("llama.attention.head_count", model.heads);
  gguf.SetUint32("llama.attention.head_count_kv", model.kv_heads);
  gguf.SetFloat("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  if (model.window != 0) gguf.SetUint32("llama.attention.sliding_window", model.window);
  if (model.attention_cap != 0) {
    gguf.SetFloat("llama.attn_logit_softcapping", model.attention_cap);
  }
  if (model.experts != 0) {
    gguf.SetUint32("llama.expert_count", model.experts);
    gguf.SetUint32("llama.expert_used_count", model.experts_used);
  }
  AddTokenizer(gguf, model.tokens == 0 ? model.vocab : model.tokens);
  AddWeights(gguf, model);
  return gguf;
}

}  // namespace tidegate
