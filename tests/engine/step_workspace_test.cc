// What steps allocate, against what is said of it before. Allocations are counted by the C library:
// not under sanitizers, which have their own.
#include "proto/store/v1/step_workspace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <memory>

#include "base/units.h"
#include "engine/sampler.h"
#include "tests/engine/local_engine.h"

namespace tidegate::step_workspace_test {

uint64_t Allocated() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// Steps as large as `shape` says, over a store that holds `fraction` of the units.
class LargeSteps {
 public:
  LargeSteps(const TestModel& model, const StepShape& shape, double fraction)
      : shape_(shape),
        store_({.model = model, .store = {.cache_fraction = fraction}}),
        local_(store_, shape.threads),
        pool_(KvPool::ForTokens(local_.model->config, KvType::kF16, KvTokens())),
        before_(Allocated()) {
    local_.decoder = std::make_unique<Decoder>(local_.model.get(), local_.client.get(),
                                               &local_.pool, /*overlap=*/true);
  }

  StepWorkspace Stated() const {
    return WorkspaceOf(local_.client->manifest(), local_.client->geometry(), shape_);
  }

  // What the decoder holds after all kinds of steps. Vectors keep what they once needed.
  uint64_t Taken() {
    const RowPruning aware = Mask(0.6, 0.2, /*may_be_dense=*/false);
    const RowPruning strict = Mask(0.9, 1, /*may_be_dense=*/false);
    const RowPruning shared = Mask(0.5, 0.5, /*may_be_dense=*/true);
    const RowPruning* const masks[] = {nullptr, &aware, &strict, &shared};
    KvCache prompt(&pool_, shape_.context_tokens);
    for (uint64_t at = 0; at < shape_.context_tokens; at += shape_.prompt_rows) {
      Run(&prompt, masks[at / shape_.prompt_rows % std::size(masks)], Precision::kExact);
    }
    for (const RowPruning* mask : masks) Run(nullptr, mask, Precision::kFast);
    return Allocated() - before_;
  }

 private:
  static constexpr uint32_t kSteps = 64;  // at most, of a sequence that decodes

  uint64_t KvTokens() const {
    return shape_.context_tokens + uint64_t{shape_.decode_rows} * kSteps;
  }

  RowPruning Mask(double density, double gamma, bool may_be_dense) const {
    const ModelConfig& c = local_.model->config;
    const KeptCounts kept = KeptAt(density, c.hidden_size, c.intermediate_size);
    return {.kept_input = kept.input,
            .kept_hidden = kept.hidden,
            .gamma = gamma,
            .may_be_dense = may_be_dense};
  }

  // A row of every sequence that decodes, and the next rows of the prompt.
  void Run(KvCache* prompt, const RowPruning* mask, Precision precision) {
    std::vector<BatchSequence> batch;
    std::vector<TokenId> tokens(std::max(shape_.prompt_rows, 1u), 270);
    if (prompt != nullptr) {
      const auto left = static_cast<uint32_t>(shape_.context_tokens) - prompt->size();
      const uint32_t rows = std::min(shape_.prompt_rows, left);
      ASSERT_TRUE(prompt->Grow(rows).ok());
      batch.push_back({.kv = prompt,
                       .tokens = std::span(tokens).first(rows),
                       .form = RowForm::kPrompt,
                       .precision = precision,
                       .logit_rows = 0});
    }
    for (uint32_t i = 0; i < shape_.decode_rows; ++i) {
      if (i == caches_.size()) caches_.push_back(std::make_unique<KvCache>(&pool_, kSteps));
      ASSERT_TRUE(caches_[i]->Grow(1).ok());
      batch.push_back({.kv = caches_[i].get(),
                       .tokens = std::span(tokens).first(1),
                       .prune = mask,
                       .precision = precision});
    }
    const auto draw = [&](size_t, uint32_t, std::span<float> logits) { sampler_.Sample(logits); };
    ASSERT_TRUE(local_.decoder->Run(batch, draw, cost_).ok());
  }

  const StepShape shape_;
  LocalStore store_;
  LocalDecoder local_;
  KvPool pool_;
  std::vector<std::unique_ptr<KvCache>> caches_;
  Sampler sampler_{SamplingParams(), {}};
  StepCost cost_;
  const uint64_t before_;
};

// The sizes of the demo model, with fewer layers.
const TestModel kDemo = {
    .hidden = 256, .intermediate = 1024, .heads = 8, .kv_heads = 4, .vocab = 4096, .context = 512};
const TestModel kLarger = {.layers = 2,
                           .hidden = 768,
                           .intermediate = 2560,
                           .heads = 12,
                           .kv_heads = 2,
                           .vocab = 3000,
                           .context = 900,
                           .matrices = GgmlType::kF16};

// Taken is no more than stated, and stated no more than `most` times what is taken.
void ExpectStated(const TestModel& model, const StepShape& shape, double fraction, double most) {
  LargeSteps steps(model, shape, fraction);
  const uint64_t taken = steps.Taken();
  if (taken == 0) GTEST_SKIP() << "the C library does not count here";
  // Streamed blocks wait in memory of their own (AlignedBuffer), which the C library does not see.
  const uint64_t stated = steps.Stated().bytes() - steps.Stated().streamed;
  std::printf("%u + %u rows: taken %s, stated %s\n", shape.prompt_rows, shape.decode_rows,
              FormatBytes(taken).c_str(), FormatBytes(stated).c_str());
  EXPECT_LE(taken, stated);
  EXPECT_GE(static_cast<double>(taken) * most, static_cast<double>(stated));
}

constexpr StepShape kDemoShape = {
    .prompt_rows = 256, .decode_rows = 64, .threads = 2, .context_tokens = 512};
constexpr StepShape kLargerShape = {
    .prompt_rows = 256, .decode_rows = 16, .threads = 2, .context_tokens = 900};

TEST(StepWorkspaceTest, BoundsWhatStepsOfTheDemoModelTake) {
  ExpectStated(kDemo, kDemoShape, 1, 1.15);
}

TEST(StepWorkspaceTest, BoundsWhatTheyTakeWhereUnitsAreRead) {
  ExpectStated(kDemo, kDemoShape, 0.5, 1.3);
}

TEST(StepWorkspaceTest, BoundsWhatStepsOfALargerModelTake) {
  ExpectStated(kLarger, kLargerShape, 1, 1.15);
}

}  // namespace tidegate::step_workspace_test
