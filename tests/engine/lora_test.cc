// Adapters beside the weights against the same adapters merged while packing.
#include "engine/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "engine/engine.h"
#include "tests/engine/local_engine.h"
#include "tests/support/random_values.h"

namespace tidegate::lora_test {

using ::testing::HasSubstr;

constexpr size_t kHidden = 64, kIntermediate = 96, kKv = 32, kVocab = 320;

struct Matrix {
  const char* name;
  size_t rows, columns;
};

// Of layers of TestModel{}.
constexpr Matrix kMatrices[] = {{"attn_q", kHidden, kHidden},
                                {"attn_k", kKv, kHidden},
                                {"attn_v", kKv, kHidden},
                                {"attn_output", kHidden, kHidden},
                                {"ffn_gate", kIntermediate, kHidden},
                                {"ffn_up", kIntermediate, kHidden},
                                {"ffn_down", kHidden, kIntermediate}};

GgufBuilder EmptyAdapter() {
  GgufBuilder gguf;
  gguf.SetString("general.architecture", "llama");
  gguf.SetString("adapter.type", "lora");
  gguf.SetFloat("adapter.lora.alpha", 8);
  return gguf;
}

void AddPair(GgufBuilder& gguf, const std::string& target, size_t rows, size_t columns, size_t rank,
             const std::vector<float>& a, const std::vector<float>& b) {
  gguf.AddTensor(target + ".lora_a", GgmlType::kF32, {columns, rank}, a);
  gguf.AddTensor(target + ".lora_b", GgmlType::kF32, {rank, rows}, b);
}

// Every matrix that can be changed, each with another rank.
GgufBuilder FullAdapter(uint32_t seed) {
  GgufBuilder gguf = EmptyAdapter();
  size_t rank = 1;
  const auto add = [&](const std::string& target, size_t rows, size_t columns) {
    AddPair(gguf, target, rows, columns, rank, Normals(rank * columns, 0.1f, seed),
            Normals(rows * rank, 0.1f, seed + 1));
    seed += 2;
    rank = rank % 19 + 3;
  };
  for (const char* layer : {"blk.0.", "blk.1."}) {
    for (const Matrix& m : kMatrices) {
      add(absl::StrCat(layer, m.name, ".weight"), m.rows, m.columns);
    }
  }
  add("output.weight", kVocab, kHidden);
  return gguf;
}

const std::vector<TokenId> kTokens = {1, 270, 280, 5, 300, 17, 270, 263, 262, 299, 4};

struct Answer {
  std::vector<float> prefill, dense, pruned;
  std::vector<std::vector<uint32_t>> masks;
};

Answer AnswerOf(const LocalStore& store, const std::vector<LoraSource>& adapters = {},
                const RowPruning& prune = {.kept_input = 40, .kept_hidden = 60}) {
  LocalDecoder local(store, 2, true, adapters);
  Answer answer;
  local.decoder->set_on_mask(
      [&](uint32_t, UnitKind, const UnitOrder&, std::span<const uint32_t> positions) {
        answer.masks.emplace_back(positions.begin(), positions.end());
      });
  PassAccounts accounts;
  const auto run = [&](bool prefill, const RowPruning* step) {
    std::vector<float> logits(local.model->config.embedding_rows);
    KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 16);
    KvCache kv(&pool, 16);
    if (prefill) {
      CHECK(AppendPrompt(*local.decoder, kv, kTokens, Precision::kExact, logits, accounts).ok());
    } else {
      for (const TokenId token : kTokens) {
        CHECK(
            AppendToken(*local.decoder, kv, token, step, Precision::kExact, logits, accounts).ok());
      }
    }
    return logits;
  };
  answer.prefill = run(true, nullptr);
  answer.dense = run(false, nullptr);
  answer.pruned = run(false, &prune);
  return answer;
}

double Difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::fmax(largest, std::fabs(a[i] - b[i]));
  return largest;
}

TEST(LoraTest, BesideTheWeightsIsAsMerged) {
  TempDir dir;
  FullAdapter(1).WriteTo(dir.File("a.gguf"));
  FullAdapter(100).WriteTo(dir.File("b.gguf"));
  // Two at once, one of them subtracted.
  const std::vector<LoraSource> adapters = {{dir.File("a.gguf"), 0.5f},
                                            {dir.File("b.gguf"), -0.25f}};
  const LocalStore merged_store(
      {.model = {}, .pack = {.units = UnitEncoding::kF32, .adapters = adapters}, .store = {}});
  const LocalStore plain_store({.model = {}, .pack = {.units = UnitEncoding::kF32}, .store = {}});
  const Answer merged = AnswerOf(merged_store), beside = AnswerOf(plain_store, adapters);
  EXPECT_LE(Difference(merged.prefill, beside.prefill), 1e-4);
  EXPECT_LE(Difference(merged.dense, beside.dense), 1e-4);
  EXPECT_EQ(merged.masks, beside.masks);
  EXPECT_LE(Difference(merged.pruned, beside.pruned), 1e-4);
  EXPECT_LE(Difference(beside.prefill, beside.dense), 1e-4);
  // It would show.
  const Answer without = AnswerOf(plain_store);
  EXPECT_GT(Difference(without.dense, beside.dense), 0.1);
  EXPECT_GT(Difference(without.prefill, beside.prefill), 0.1);
}

TEST(LoraTest, MasksOfEveryUnitAreDenseBitByBit) {
  TempDir dir;
  FullAdapter(1).WriteTo(dir.File("a.gguf"));
  const LocalStore store;
  const Answer answer = AnswerOf(store, {{dir.File("a.gguf"), 1}},
                                 {.kept_input = kHidden, .kept_hidden = kIntermediate});
  EXPECT_EQ(answer.pruned, answer.dense);
}

TEST(LoraTest, EachMatrixIsChangedByItself) {
  const LocalStore plain({.model = {}, .pack = {.units = UnitEncoding::kF32}, .store = {}});
  for (const Matrix& m : kMatrices) {
    TempDir dir;
    GgufBuilder gguf = EmptyAdapter();
    AddPair(gguf, absl::StrCat("blk.1.", m.name, ".weight"), m.rows, m.columns, 2,
            Normals(2 * m.columns, 0.2f, 5), Normals(2 * m.rows, 0.2f, 6));
    gguf.WriteTo(dir.File("a.gguf"));
    const std::vector<LoraSource> adapters = {{dir.File("a.gguf"), 1}};
    const LocalStore merged_store(
        {.model = {}, .pack = {.units = UnitEncoding::kF32, .adapters = adapters}, .store = {}});
    const Answer merged = AnswerOf(merged_store), beside = AnswerOf(plain, adapters);
    EXPECT_LE(Difference(merged.dense, beside.dense), 1e-4) << m.name;
    EXPECT_LE(Difference(merged.pruned, beside.pruned), 1e-4) << m.name;
    EXPECT_LE(Difference(merged.prefill, beside.prefill), 1e-4) << m.name;
    EXPECT_GT(Difference(AnswerOf(plain).dense, beside.dense), 1e-3) << m.name;
  }
}

TEST(LoraTest, AnAdapterThatIsMergedAlreadyIsWarnedOf) {
  TempDir dir;
  GgufBuilder gguf = EmptyAdapter();
  AddPair(gguf, "blk.0.attn_q.weight", kHidden, kHidden, 1, Normals(kHidden, 0.2f, 1),
          Normals(kHidden, 0.2f, 2));
  gguf.WriteTo(dir.File("a.gguf"));
  gguf.WriteTo(dir.File("b.gguf"));
  const LocalStore store(
      {.model = {}, .pack = {.adapters = {{dir.File("a.gguf"), 0.5f}}}, .store = {}});
  const auto log_with = [&](const char* file) {
    EngineOptions options;
    options.store_socket = store.socket();
    options.adapters = {{dir.File(file), 1}};
    options.kv_tokens = 64;
    options.threads = 1;
    options.attach_timeout = std::chrono::seconds(30);
    testing::internal::CaptureStderr();
    const auto engine = Engine::Create(options, nullptr);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(engine.ok()) << engine.status();
    return log;
  };
  EXPECT_THAT(log_with("a.gguf"), HasSubstr("a.gguf: the pack was made with a.gguf=0.5 merged"));
  EXPECT_THAT(log_with("b.gguf"), testing::Not(HasSubstr("merged")));
}

// As files of models whose projections are one matrix have it.
TEST(LoraTest, FusedMatricesAreTakenApart) {
  TempDir dir;
  GgufBuilder apart = EmptyAdapter(), fused = EmptyAdapter();
  const std::vector<float> a = Normals(2 * kHidden, 0.2f, 1);
  const std::vector<float> qkv = Normals(2 * (kHidden + 2 * kKv), 0.2f, 2);
  const std::vector<float> gate_up = Normals(2 * 2 * kIntermediate, 0.2f, 3);
  const auto rows = [](const std::vector<float>& b, size_t first, size_t count) {
    return std::vector<float>(b.begin() + static_cast<ptrdiff_t>(2 * first),
                              b.begin() + static_cast<ptrdiff_t>(2 * (first + count)));
  };
  AddPair(fused, "blk.0.attn_qkv.weight", kHidden + 2 * kKv, kHidden, 2, a, qkv);
  AddPair(fused, "blk.0.ffn_up.weight", 2 * kIntermediate, kHidden, 2, a, gate_up);
  AddPair(apart, "blk.0.attn_q.weight", kHidden, kHidden, 2, a, rows(qkv, 0, kHidden));
  AddPair(apart, "blk.0.attn_k.weight", kKv, kHidden, 2, a, rows(qkv, kHidden, kKv));
  AddPair(apart, "blk.0.attn_v.weight", kKv, kHidden, 2, a, rows(qkv, kHidden + kKv, kKv));
  AddPair(apart, "blk.0.ffn_gate.weight", kIntermediate, kHidden, 2, a,
          rows(gate_up, 0, kIntermediate));
  AddPair(apart, "blk.0.ffn_up.weight", kIntermediate, kHidden, 2, a,
          rows(gate_up, kIntermediate, kIntermediate));
  fused.WriteTo(dir.File("fused.gguf"));
  apart.WriteTo(dir.File("apart.gguf"));
  const LocalStore store;
  const Answer one = AnswerOf(store, {{dir.File("fused.gguf"), 1}});
  const Answer other = AnswerOf(store, {{dir.File("apart.gguf"), 1}});
  EXPECT_EQ(one.dense, other.dense);
  EXPECT_EQ(one.pruned, other.pruned);
  EXPECT_EQ(one.prefill, other.prefill);
}

struct Refused {
  const char* name;
  std::function<void(GgufBuilder&)> damage;
  const char* message;
};

class RefusedLoraTest : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedLoraTest, NamesAdapterAndTensor) {
  TempDir dir;
  GgufBuilder gguf = EmptyAdapter();
  GetParam().damage(gguf);
  gguf.WriteTo(dir.File("a.gguf"));
  ModelConfig config = {.layer_count = 2,
                        .hidden_size = kHidden,
                        .intermediate_size = kIntermediate,
                        .query_heads = 4,
                        .kv_heads = 2,
                        .head_size = 16,
                        .embedding_rows = kVocab,
                        .windows = {}};
  config.expert_count = std::string(GetParam().name) == "Experts" ? 4 : 0;
  const std::vector<LoraSource> sources = {{dir.File("a.gguf"), 1}};
  const auto lora = LoadLora(sources, "llama", config, /*own_head=*/false);
  EXPECT_EQ(lora.status().code(), absl::StatusCode::kInvalidArgument);  // ends the engine
  EXPECT_THAT(std::string(lora.status().message()), HasSubstr("a.gguf: "));
  EXPECT_THAT(std::string(lora.status().message()), HasSubstr(GetParam().message));
}

void AddZeros(GgufBuilder& gguf, const std::string& target, size_t rows, size_t columns) {
  AddPair(gguf, target, rows, columns, 1, std::vector<float>(columns), std::vector<float>(rows));
}

TEST(LoraFileTest, RefusesScalesThatOverflowAndFilesWithoutTensors) {
  TempDir dir;
  EmptyAdapter().WriteTo(dir.File("empty.gguf"));
  GgufBuilder gguf = EmptyAdapter();
  AddZeros(gguf, "blk.0.attn_q.weight", kHidden, kHidden);
  gguf.WriteTo(dir.File("a.gguf"));
  const auto message = [&](const char* file, float scale) {
    return std::string(LoraFile::Open({dir.File(file), scale}, "llama").status().message());
  };
  EXPECT_EQ(message("a.gguf", 2), "");
  EXPECT_THAT(message("a.gguf", 3e38f), HasSubstr("give a smaller scale"));
  EXPECT_THAT(message("empty.gguf", 1), HasSubstr("no tensors"));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedLoraTest,
    ::testing::Values(
        Refused{"OtherArchitecture",
                [](GgufBuilder& g) { g.SetString("general.architecture", "qwen2"); },
                "this model is 'llama'"},
        Refused{"NoAdapter", [](GgufBuilder& g) { g.Remove("adapter.type"); },
                "not a LoRA adapter"},
        Refused{"Embedding",
                [](GgufBuilder& g) { AddZeros(g, "token_embd.weight", kVocab, kHidden); },
                "token_embd.weight"},
        Refused{"TiedHead", [](GgufBuilder& g) { AddZeros(g, "output.weight", kVocab, kHidden); },
                "output.weight"},
        Refused{"NoSuchLayer",
                [](GgufBuilder& g) { AddZeros(g, "blk.2.attn_q.weight", kHidden, kHidden); },
                "blk.2.attn_q.weight: the adapter has a layer 2, the model only 2 layers"},
        Refused{"LayerIsNoNumber",
                [](GgufBuilder& g) {
                  AddZeros(g, "blk.99999999999999999999.attn_q.weight", kHidden, kHidden);
                },
                "attn_q.weight"},
        Refused{"Norm", [](GgufBuilder& g) { AddZeros(g, "blk.0.attn_norm.weight", 1, kHidden); },
                "blk.0.attn_norm.weight"},
        Refused{"Experts",
                [](GgufBuilder& g) { AddZeros(g, "blk.0.ffn_up.weight", kIntermediate, kHidden); },
                "blk.0.ffn_up.weight"},
        Refused{"WrongRows",
                [](GgufBuilder& g) { AddZeros(g, "blk.0.attn_k.weight", kHidden, kHidden); },
                "do not fit the model's [32, 64]"},
        Refused{"WrongColumns",
                [](GgufBuilder& g) { AddZeros(g, "blk.0.ffn_down.weight", kHidden, kHidden); },
                "do not fit the model's [64, 96]"},
        Refused{"WrongRank",
                [](GgufBuilder& g) {
                  g.AddTensor("blk.0.attn_q.weight.lora_a", GgmlType::kF32, {kHidden, 2},
                              std::vector<float>(2 * kHidden));
                  g.AddTensor("blk.0.attn_q.weight.lora_b", GgmlType::kF32, {3, kHidden},
                              std::vector<float>(3 * kHidden));
                },
                "blk.0.attn_q.weight.lora_a [2, 64]"},
        Refused{"NotFinite",
                [](GgufBuilder& g) {
                  AddPair(g, "blk.0.attn_q.weight", kHidden, kHidden, 1,
                          std::vector<float>(kHidden, NAN), std::vector<float>(kHidden));
                },
                "blk.0.attn_q.weight.lora_a: row 0, column 0 is nan, not a finite number"}),
    [](const auto& row) { return std::string(row.param.name); });

TEST(LoraTest, AMissingFileIsNamed) {
  const std::vector<LoraSource> sources = {{"/nowhere/a.gguf", 1}};
  const auto lora = LoadLora(sources, "llama", ModelConfig{.layer_count = 1, .windows = {}}, false);
  EXPECT_EQ(lora.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(lora.status().message()), HasSubstr("/nowhere/a.gguf"));
}

}  // namespace tidegate::lora_test
