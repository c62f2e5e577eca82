// Steps with rows of several sequences: what company may change, and what it must not.
#include "engine/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/engine/local_engine.h"

namespace tidegate::batch_test {

using Logits = std::vector<float>;

// A sequence that has read some prompt and decodes from there.
struct Member {
  std::vector<TokenId> prompt;
  std::vector<TokenId> next;  // tokens of decode form
  const RowPruning* prune = nullptr;
  Precision precision = Precision::kExact;
};

const RowPruning kPruned = {.kept_input = 40, .kept_hidden = 60};
const RowPruning kHalf = {.kept_input = 30, .kept_hidden = 50};
const RowPruning kAware = {.kept_input = 30, .kept_hidden = 50, .gamma = 0.3, .may_be_dense = true};

const std::vector<Member>& Members() {
  static const auto& members =
      *new std::vector<Member>{{{1, 270, 280, 5}, {300, 17, 270}, nullptr, Precision::kExact},
                               {{1, 17}, {263, 262, 299}, &kPruned, Precision::kExact},
                               {{1, 299, 4, 9, 270, 280}, {5, 300, 17}, nullptr, Precision::kFast},
                               {{1, 44, 260}, {280, 281, 282}, &kHalf, Precision::kFast},
                               {{1, 45, 261}, {283, 284, 285}, &kPruned, Precision::kFast},
                               {{1, 46, 262, 263, 264}, {7, 8, 9}, nullptr, Precision::kExact}};
  return members;
}

// Runs steps in which every member has the rows that `rows` says, until all of them are through.
// Returns each member's logits: behind its prompt, and behind every token.
class Company {
 public:
  Company(LocalDecoder& local, std::vector<size_t> members)
      : local_(local),
        members_(std::move(members)),
        pool_(
            KvPool::ForTokens(local.model->config, KvType::kF32, members_.size() * kKvPageTokens)) {
    for (size_t i = 0; i < members_.size(); ++i) {
      caches_.push_back(std::make_unique<KvCache>(&pool_, 16));
    }
    logits_.resize(members_.size());
  }

  const std::vector<std::vector<Logits>>& Run(uint32_t prompt_rows, uint32_t decode_rows) {
    while (Step(prompt_rows, decode_rows)) {
    }
    return logits_;
  }

  PassAccounts total;               // of the steps
  std::vector<PassAccounts> parts;  // of the members

 private:
  bool Step(uint32_t prompt_rows, uint32_t decode_rows) {
    std::vector<BatchSequence> batch;
    std::vector<size_t> who;
    for (size_t i = 0; i < members_.size(); ++i) {
      const Member& member = Members()[members_[i]];
      const size_t done = caches_[i]->size(), prompt = member.prompt.size();
      BatchSequence sequence;
      sequence.kv = caches_[i].get();
      sequence.precision = member.precision;
      if (done < prompt) {
        const size_t count = std::min<size_t>(prompt_rows, prompt - done);
        sequence.tokens = std::span(member.prompt).subspan(done, count);
        sequence.form = RowForm::kPrompt;
        sequence.logit_rows = done + count == prompt ? 1 : 0;
      } else if (done < prompt + member.next.size()) {
        const size_t count = std::min<size_t>(decode_rows, prompt + member.next.size() - done);
        sequence.tokens = std::span(member.next).subspan(done - prompt, count);
        sequence.prune = member.prune;
        sequence.logit_rows = static_cast<uint32_t>(count);
      } else {
        continue;
      }
      EXPECT_TRUE(sequence.kv->Grow(static_cast<uint32_t>(sequence.tokens.size())).ok());
      batch.push_back(sequence);
      who.push_back(i);
    }
    if (batch.empty()) return false;
    StepCost cost;
    const absl::Status done = local_.decoder->Run(
        batch,
        [&](size_t s, uint32_t, std::span<float> row) {
          logits_[who[s]].emplace_back(row.begin(), row.end());
        },
        cost);
    EXPECT_TRUE(done.ok()) << done;
    parts.resize(members_.size());
    for (size_t s = 0; s < batch.size(); ++s) {
      EXPECT_TRUE(cost.statuses[s].ok()) << cost.statuses[s];
      parts[who[s]].Add(cost.sequences[s]);
    }
    total.Add(cost.step);
    return done.ok();
  }

  LocalDecoder& local_;
  const std::vector<size_t> members_;
  KvPool pool_;
  std::vector<std::unique_ptr<KvCache>> caches_;
  std::vector<std::vector<Logits>> logits_;
};

std::vector<size_t> Everybody() {
  std::vector<size_t> all(Members().size());
  std::iota(all.begin(), all.end(), 0u);
  return all;
}

struct BatchCase {
  const char* name;
  uint32_t experts;
  double fraction;  // of the units in memory
};

class BatchTest : public testing::TestWithParam<BatchCase> {
 protected:
  static LocalStoreOptions Options() {
    LocalStoreOptions options;
    options.model = {.experts = GetParam().experts, .experts_used = GetParam().experts / 2};
    options.pack.units = UnitEncoding::kQ4;
    options.store.cache_fraction = GetParam().fraction;
    options.store.staging_bytes = 8192;
    return options;
  }
};

TEST_P(BatchTest, CompanyChangesNoBit) {
  LocalStore store(Options());
  std::vector<std::vector<Logits>> alone;
  {
    LocalDecoder local(store);
    for (size_t i = 0; i < Members().size(); ++i) {
      Company company(local, {i});
      alone.push_back(company.Run(/*prompt_rows=*/16, /*decode_rows=*/1)[0]);
    }
  }
  for (const uint32_t threads : {1u, 2u}) {
    for (const bool overlap : {true, false}) {
      LocalDecoder local(store, threads, overlap);
      // One row at a time of each, chunks of prompts beside tokens, and several tokens at once.
      for (const auto& [prompt_rows, decode_rows] : {std::pair{1u, 1u}, {2u, 1u}, {16u, 3u}}) {
        for (const std::vector<size_t>& members :
             {Everybody(), std::vector<size_t>{5, 3, 0}, {1, 3, 4}, {0, 2, 5}}) {
          Company company(local, members);
          const auto& together = company.Run(prompt_rows, decode_rows);
          for (size_t i = 0; i < members.size(); ++i) {
            EXPECT_EQ(together[i], alone[members[i]])
                << "member " << members[i] << ", rows " << prompt_rows << ", " << decode_rows;
          }
        }
      }
    }
  }
}

TEST_P(BatchTest, ThePartsSumUpToTheStepAndToTheStoresCounters) {
  LocalStore store(Options());
  LocalDecoder local(store);
  Company company(local, Everybody());
  company.Run(2, 1);
  PassAccounts sum;
  for (const PassAccounts& part : company.parts) sum.Add(part);
  uint64_t hits = 0, misses = 0;
  for (size_t kind = 0; kind < kUnitKinds; ++kind) {
    EXPECT_EQ(sum.hit_units[kind], company.total.hit_units[kind]);
    EXPECT_EQ(sum.miss_units[kind], company.total.miss_units[kind]);
    hits += sum.hit_units[kind];
    misses += sum.miss_units[kind];
  }
  EXPECT_EQ(sum.flash_bytes, company.total.flash_bytes);
  EXPECT_EQ(sum.flash_reads, company.total.flash_reads);
  const StoreStats& stats = store.store().stats();
  EXPECT_TRUE(WaitUntil([&] { return stats.hit_units[0] + stats.hit_units[1] == hits; },
                        std::chrono::seconds(10)))
      << stats.hit_units[0] + stats.hit_units[1] << " and " << hits;
  EXPECT_EQ(stats.miss_units[0] + stats.miss_units[1], misses);
  if (GetParam().fraction == 0) {
    EXPECT_GT(sum.flash_bytes, 0u);
    for (const PassAccounts& part : company.parts) EXPECT_GT(part.flash_bytes, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, BatchTest,
                         testing::Values(BatchCase{"Resident", 0, 1.0}, BatchCase{"Half", 0, 0.4},
                                         BatchCase{"OnFlash", 0, 0.0},
                                         BatchCase{"Experts", 4, 0.4}),
                         [](const auto& param) { return param.param.name; });

// Prompts beside a cache-aware row read everything: so it is computed without its mask.
TEST(DenseInsteadTest, ACacheAwareRowBesideAPromptIsDense) {
  LocalStoreOptions options;
  options.store.cache_fraction = 0.4;
  LocalStore store(options);
  LocalDecoder local(store);
  const std::vector<TokenId> prompt = {1, 270, 280, 5}, other = {1, 300, 17};
  const TokenId token = 263;
  // company: rows of the prompt beside it that want logits; none: it is alone.
  const auto run = [&](const RowPruning* prune, std::optional<uint32_t> company) {
    KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 2 * kKvPageTokens);
    KvCache kv(&pool, 8), beside(&pool, 8);
    PassAccounts ignored;
    CHECK(AppendPrompt(*local.decoder, kv, prompt, Precision::kExact, {}, ignored).ok());
    CHECK(kv.Grow(1).ok() && beside.Grow(static_cast<uint32_t>(other.size())).ok());
    std::vector<BatchSequence> batch = {{.kv = &kv, .tokens = {&token, 1}, .prune = prune}};
    if (company) {
      batch.push_back({.kv = &beside,
                       .tokens = other,
                       .form = RowForm::kPrompt,
                       .prune = nullptr,
                       .logit_rows = *company});
    }
    Logits logits;
    StepCost cost;
    CHECK(local.decoder
              ->Run(
                  batch,
                  [&](size_t s, uint32_t, std::span<float> row) {
                    if (s == 0) logits.assign(row.begin(), row.end());
                  },
                  cost)
              .ok());
    return std::pair(logits, cost.sequences[0].dense_instead);
  };
  const auto [dense, none] = run(nullptr, std::nullopt);
  EXPECT_EQ(none, 0);
  const auto [alone, masked] = run(&kAware, std::nullopt);
  EXPECT_NE(alone, dense);
  EXPECT_EQ(masked, 0);
  const auto [beside, instead] = run(&kAware, 1);
  EXPECT_EQ(beside, dense);
  EXPECT_DOUBLE_EQ(instead, 1);
  // A prompt that wants no logits has no row in the last layer's MLP, one of two.
  EXPECT_DOUBLE_EQ(run(&kAware, 0).second, 0.5);
  const auto [strict, kept] = run(&kPruned, 1);
  EXPECT_EQ(kept, 0);
  EXPECT_EQ(strict, run(&kPruned, std::nullopt).first);
}

// Two masks that leave nothing to spare: reading the rest of it costs nothing.
TEST(DenseInsteadTest, RowsWhoseMasksWantEverythingThatIsMissingAreDense) {
  LocalStoreOptions options;
  options.store.cache_fraction = 0.5;
  options.store.policy = "none";
  LocalStore store(options);
  LocalDecoder local(store);
  const RowPruning nearly = {
      .kept_input = 63, .kept_hidden = 95, .gamma = 0.9, .may_be_dense = true};
  const std::vector<TokenId> tokens = {1, 270, 280, 5};
  const auto instead = [&](size_t rows) {
    KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, rows * kKvPageTokens);
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<BatchSequence> batch;
    for (size_t i = 0; i < rows; ++i) {
      caches.push_back(std::make_unique<KvCache>(&pool, 8));
      CHECK(caches.back()->Grow(1).ok());
      batch.push_back({.kv = caches.back().get(), .tokens = {&tokens[i], 1}, .prune = &nearly});
    }
    StepCost cost;
    CHECK(local.decoder->Run(batch, nullptr, cost).ok());
    return cost.step.dense_instead / static_cast<double>(rows);
  };
  EXPECT_EQ(instead(1), 0) << "one row keeps its mask";
  EXPECT_GT(instead(4), 0);
}

}  // namespace tidegate::batch_test
