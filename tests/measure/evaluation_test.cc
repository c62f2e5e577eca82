#include "measure/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "base/units.h"
#include "engine/engine.h"
#include "engine/pruning.h"
#include "engine/single_sequence.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::evaluation_test {

EvalResult Made(const char* method, double nll, double speed, double times) {
  EvalResult result;
  result.point.method = method;
  result.nll = nll;
  result.modelled_tokens_per_second = speed;
  result.times_streaming = times;
  return result;
}

TEST(EvaluationTest, FrontAndBestOfHandMadeResults) {
  const std::vector<EvalResult> results = {Made("dense", 2.0, 10, 1), Made("dip", 2.1, 20, 2),
                                           Made("glu", 2.2, 15, 1.5), Made("cats", 2.3, 30, 3),
                                           Made("dip_ca", 2.3, 20, 2)};
  EXPECT_EQ(ParetoFront(results), (std::vector<size_t>{3, 1, 0}));
  EXPECT_EQ(BestAt(results, 1), 0u);
  EXPECT_EQ(BestAt(results, 1.4), 1u);
  EXPECT_EQ(BestAt(results, 2.7), 3u);
  EXPECT_EQ(BestAt(results, 3.1), std::nullopt);
  EXPECT_TRUE(ParetoFront({}).empty());
}

class EvaluateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
    for (TokenId i = 0; i < 65; ++i) tokens_.push_back(1 + i * 37 % 300);
    task_.tokens = tokens_;
    task_.chunk = 16;
    task_.chunks = 4;
    task_.precision = Precision::kExact;
  }
  LocalModelOptions Options() const {
    LocalModelOptions options;
    options.model = dir_.File("m.gguf");
    options.store.cache_fraction = 1;
    options.store.staging_bytes = kMiB;
    options.threads = 1;
    return options;
  }
  // As `tidegate eval` does it: the baselines prune inside a dense pass.
  static std::optional<RowPruning> StepOf(const EvalPoint& point, const ModelConfig& config) {
    if (!point.method.starts_with("dip")) return std::nullopt;
    const DensitySplit split = SplitDensity(point.density);
    return RowPruning{.kept_input = KeptUnits(split.keep_input, config.hidden_size),
                      .kept_hidden = KeptUnits(split.keep_hidden, config.intermediate_size),
                      .gamma = point.method == "dip_ca" ? point.gamma : 1,
                      .protected_share = kProtectedShare};
  }
  EvalResult Run(const EvalPoint& point) {
    LocalModelOptions options = Options();
    options.units = UnitEncoding::kF32;
    options.one_unit_per_block = true;
    options.store.cache_fraction = point.cache_fraction;
    const auto local = LocalModel::Open(options);
    EXPECT_TRUE(local.ok()) << local.status();
    std::optional<RowPruning> step = StepOf(point, (*local)->model().config);
    if (step) step->follows_company = follow_company_;
    uint64_t done = 0;
    auto result = Evaluate(**local, task_, point, step ? &*step : nullptr, [&](uint64_t tokens) {
      done = tokens;
      return absl::OkStatus();
    });
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(done, 64 + (task_.questions.size() * 9));
    ModelSpeed(**local, task_, {}, *result);
    return *std::move(result);
  }

  TempDir dir_;
  std::vector<TokenId> tokens_;
  EvalTask task_;
  bool follow_company_ = false;
};

TEST_F(EvaluateTest, MethodsAtDensityOneAreTheDenseModel) {
  const EvalResult dense = Run({.method = "dense"});
  EXPECT_EQ(dense.tokens, 64u);
  EXPECT_EQ(dense.density, 1);
  EXPECT_EQ(dense.flash_share, 0);
  for (const char* method : {"glu", "gate", "up", "cats", "dip"}) {
    const EvalResult all = Run({.method = method});
    EXPECT_NEAR(all.nll, dense.nll, 1e-5) << method;
    EXPECT_NEAR(all.density, 1, 1e-9) << method;
  }
}

TEST_F(EvaluateTest, LeavingUnitsOutCostsAndSaves) {
  const EvalResult dense = Run({.method = "dense", .cache_fraction = 0.5});
  for (const char* method : {"gate", "up", "cats", "dip"}) {
    const EvalResult some = Run({.method = method, .density = 0.5, .cache_fraction = 0.5});
    EXPECT_NE(some.nll, dense.nll) << method;
    EXPECT_NEAR(some.density, 0.5, 0.05) << method;
    EXPECT_LT(some.flash_share, 0.5) << method;
    EXPECT_GT(some.times_streaming, 1.2) << method;
    EXPECT_EQ(some.memory_bytes, dense.memory_bytes) << method;
  }
  EXPECT_NEAR(dense.times_streaming, 1, 0.1);
}

// Masks that look at no cache are the same in company.
TEST_F(EvaluateTest, StreamsAbreastScoreTheSame) {
  const EvalPoint point = {.method = "dip", .density = 0.5, .cache_fraction = 0.5};
  const EvalResult alone = Run(point);
  std::vector<double> bytes_read;
  for (const uint32_t streams : {2u, 3u, 4u}) {  // three: a group of them and a rest of one
    task_.streams = streams;
    const EvalResult together = Run(point);
    EXPECT_NEAR(together.nll, alone.nll, 1e-12);
    EXPECT_EQ(together.density, alone.density);
    bytes_read.push_back(together.flash_bytes);
  }
  EXPECT_LT(bytes_read[2], bytes_read[0]) << "what several want is read once";
}

TEST_F(EvaluateTest, MasksMayFollowCompany) {
  const EvalPoint point = {.method = "dip_ca", .density = 0.5, .gamma = 0.2, .cache_fraction = 0.3};
  task_.streams = 4;
  const EvalResult apart = Run(point);
  follow_company_ = true;
  const EvalResult together = Run(point);
  EXPECT_EQ(together.density, apart.density);
  EXPECT_NE(together.nll, apart.nll);
}

TEST_F(EvaluateTest, AnswersAreTheLikeliestChoices) {
  // What the model itself goes on with is the likeliest by definition: against three others.
  const std::vector<TokenId> context(tokens_.begin(), tokens_.begin() + 8);
  const auto local = LocalModel::Open(Options());
  ASSERT_TRUE(local.ok()) << local.status();
  KvPool pool = KvPool::ForTokens((*local)->model().config, KvType::kF32, 16);
  KvCache kv(&pool, 16);
  std::vector<float> logits((*local)->model().config.embedding_rows);
  PassAccounts accounts;
  ASSERT_TRUE(
      AppendPrompt((*local)->decoder(), kv, context, Precision::kExact, logits, accounts).ok());
  const auto best =
      static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  ChoiceQuestion question;
  question.context = context;
  question.answer = 2;
  for (const TokenId choice : {best + 1, best + 2, best, best + 3}) {
    question.choices.push_back({choice % 320});
    question.choice_bytes.push_back(1);
  }
  ChoiceQuestion wrong = question;
  wrong.answer = 0;
  const std::vector<ChoiceQuestion> questions = {question, wrong, question, question};
  task_.questions = questions;
  for (const char* method : {"dense", "dip"}) {
    const EvalResult result = Run({.method = method});
    EXPECT_EQ(result.accuracy, 0.75) << method;
    EXPECT_EQ(result.accuracy_per_byte, 0.75) << method;
  }
}

}  // namespace tidegate::evaluation_test
