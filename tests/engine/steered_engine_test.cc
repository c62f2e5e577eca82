// A whole engine whose requests follow a profile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "engine/engine.h"
#include "proto/store/v1/profile.h"
#include "tests/engine/local_engine.h"

namespace tidegate::steered_engine_test {

using ::testing::HasSubstr;

// Of LlamaGguf(TestModel()): nothing pruned, the same density everywhere, one density a layer.
store::v1::Profile TestProfile() {
  store::v1::Profile profile;
  profile.set_version(kProfileVersion);
  store::v1::ProfileModel& model = *profile.mutable_model();
  model.set_name("test-llama");
  model.set_layer_count(2);
  model.set_hidden_size(64);
  model.set_intermediate_size(96);
  model.set_embedding_rows(320);
  profile.mutable_conditions()->set_cache_share(1);
  const double densities[] = {1, 0.75, 0.5};
  for (int i = 0; i < 3; ++i) {
    store::v1::OperatingPoint& point = *profile.add_ladder();
    point.set_density(densities[i]);
    point.set_gamma(0.5);
    point.set_perplexity_increase(0.02 * i);
    point.set_flash_bytes_per_token(1000 - 300 * i);
  }
  profile.mutable_ladder(2)->add_layer_densities(0.4);
  profile.mutable_ladder(2)->add_layer_densities(0.6);
  return profile;
}

class Sink : public GenerationSink {
 public:
  void OnTokens(std::string_view, std::span<const TokenId>) override {}
  void OnDone(const GenerationResult& result) override { done_.set_value(result); }
  GenerationResult Wait() { return done_.get_future().get(); }

 private:
  std::promise<GenerationResult> done_;
};

EngineOptions Options(const LocalStore& store) {
  EngineOptions options;
  options.store_socket = store.socket();
  options.threads = 1;
  options.attach_timeout = std::chrono::seconds(30);
  return options;
}

PruningParams Steered() {
  PruningParams pruning;
  pruning.steered = true;
  pruning.warm_up = false;
  return pruning;
}

GenerationResult Generate(Engine& engine, const PruningParams& pruning, uint32_t tokens = 5) {
  GenerationRequest request;
  request.prompt = {1, 270, 280};
  request.max_tokens = tokens;
  request.stop.ignore_eos = true;
  request.pruning = pruning;
  const auto sink = std::make_shared<Sink>();
  const auto id = engine.Submit(std::move(request), sink);
  EXPECT_TRUE(id.ok()) << id.status();
  return id.ok() ? sink->Wait() : GenerationResult();
}

double DensityOf(double density) {
  const KeptCounts kept = KeptAt(density, 64, 96);
  return (2 * kept.input / 64.0 + kept.hidden / 96.0) / 3;
}

class SteeredEngineTest : public testing::Test {
 protected:
  SteeredEngineTest()
      : store_({.model = {},
                .pack = {.units = UnitEncoding::kQ8, .profile = TestProfile()},
                .store = {}}) {}
  std::unique_ptr<Engine> Make(const SteeringOptions& steering) {
    EngineOptions options = Options(store_);
    options.steering = steering;
    auto engine = Engine::Create(options, nullptr);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  TempDir dir_;
  LocalStore store_;
};

TEST_F(SteeredEngineTest, ThePacksProfileHoldsForRequestsThatLeaveItToTheServer) {
  const auto engine = Make({.max_perplexity_increase = 0.02});
  const GenerationAccounts accounts = Generate(*engine, Steered()).accounts;
  EXPECT_DOUBLE_EQ(accounts.density, DensityOf(0.75));
  EXPECT_DOUBLE_EQ(accounts.gamma, 0.5);
  ASSERT_TRUE(accounts.ladder.has_value());
  EXPECT_EQ(accounts.ladder->most_accurate, 1u);
  EXPECT_EQ(accounts.ladder->fastest, 1u);
  EXPECT_NEAR(accounts.ladder->predicted_perplexity_increase, 0.02, 1e-12);
  const SteeringStats stats = engine->stats().steering;
  EXPECT_EQ(stats.points, 2u);
  EXPECT_EQ(stats.position, 1u);
}

TEST_F(SteeredEngineTest, DensitiesByLayerAreUsed) {
  const auto engine = Make({.max_perplexity_increase = 1});
  const GenerationAccounts accounts = Generate(*engine, Steered()).accounts;
  EXPECT_DOUBLE_EQ(accounts.density, (DensityOf(0.4) + DensityOf(0.6)) / 2);
  EXPECT_GT(accounts.hit_units, 0u);
}

TEST_F(SteeredEngineTest, ThePointOfNoLossIsDense) {
  const auto engine = Make({.max_perplexity_increase = 0});
  const GenerationAccounts accounts = Generate(*engine, Steered()).accounts;
  EXPECT_EQ(accounts.density, 1);
  EXPECT_EQ(accounts.gamma, 1);
  EXPECT_EQ(accounts.ladder->predicted_perplexity_increase, 0);
}

TEST_F(SteeredEngineTest, RequestsThatChooseForThemselvesAreUntouched) {
  const auto engine = Make({.max_perplexity_increase = 1});
  PruningParams own;
  own.density = 0.6f;
  own.warm_up = false;
  PruningParams dense = Steered(), dip = Steered(), reproducible = Steered();
  dense.mode = DecodeMode::kDense;
  dip.mode = DecodeMode::kDip;
  reproducible.reproducible = true;
  for (const PruningParams& pruning : {own, dense, dip, reproducible}) {
    const GenerationAccounts accounts = Generate(*engine, pruning).accounts;
    EXPECT_FALSE(accounts.ladder.has_value());
    EXPECT_EQ(accounts.density,
              pruning.mode == DecodeMode::kDense ? 1 : DensityOf(double{pruning.density}));
  }
}

// Nothing reaches the target, whatever the machine: the ladder is gone down point by point.
TEST_F(SteeredEngineTest, ATargetMovesTheStream) {
  const auto engine = Make({.target_tokens_per_second = 1e6});
  const GenerationAccounts accounts = Generate(*engine, Steered(), 120).accounts;
  ASSERT_TRUE(accounts.ladder.has_value());
  EXPECT_EQ(accounts.ladder->most_accurate, 0u);
  EXPECT_GE(accounts.ladder->fastest, 1u);
  EXPECT_GT(accounts.ladder->predicted_perplexity_increase, 0);
  EXPECT_LT(accounts.ladder->predicted_perplexity_increase, 0.04);
  EXPECT_LT(accounts.density, 1);
  const SteeringStats stats = engine->stats().steering;
  EXPECT_GT(stats.tokens_per_second, 0);
  EXPECT_GE(stats.moves, 1u);
}

TEST_F(SteeredEngineTest, AProfileOfItsOwnBeatsThePacks) {
  store::v1::Profile profile = TestProfile();
  profile.mutable_ladder(1)->set_density(0.9);
  WriteFileOrDie(dir_.File("p.json"), ProfileText(profile));
  const auto engine = Make({.profile = dir_.File("p.json"), .max_perplexity_increase = 0.02});
  EXPECT_DOUBLE_EQ(Generate(*engine, Steered()).accounts.density, DensityOf(0.9));
}

TEST_F(SteeredEngineTest, AProfileOfOtherAdaptersIsWarnedOf) {
  GgufBuilder adapter;
  adapter.SetString("general.architecture", "llama");
  adapter.SetString("adapter.type", "lora");
  const std::vector<float> zeros(64);
  adapter.AddTensor("blk.0.attn_q.weight.lora_a", GgmlType::kF32, {64, 1}, zeros);
  adapter.AddTensor("blk.0.attn_q.weight.lora_b", GgmlType::kF32, {1, 64}, zeros);
  adapter.WriteTo(dir_.File("a.gguf"));
  adapter.WriteTo(dir_.File("m.gguf"));
  const LocalStore merged(
      {.model = {}, .pack = {.adapters = {{dir_.File("m.gguf"), 1}}}, .store = {}});
  store::v1::Profile profile = TestProfile();
  profile.mutable_conditions()->add_adapters("a.gguf=0.5");
  profile.mutable_conditions()->add_adapters("m.gguf=1");
  WriteFileOrDie(dir_.File("p.json"), ProfileText(profile));
  const auto log_with = [&](float scale) {
    EngineOptions options = Options(merged);
    options.kv_tokens = 64;
    options.adapters = {{dir_.File("a.gguf"), scale}};
    options.steering = {.profile = dir_.File("p.json"), .max_perplexity_increase = 1};
    testing::internal::CaptureStderr();
    const auto engine = Engine::Create(options, nullptr);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(engine.ok()) << engine.status();
    return log;
  };
  EXPECT_THAT(log_with(0.5f), testing::Not(HasSubstr("LoRA")));
  EXPECT_THAT(log_with(1), HasSubstr("other LoRA adapters (a.gguf=0.5, m.gguf=1) than are used "
                                     "(a.gguf=1, m.gguf=1)"));
}

TEST_F(SteeredEngineTest, ErrorsTeach) {
  LocalStore plain;
  EngineOptions options = Options(plain);
  options.steering.max_perplexity_increase = 0.02;
  const auto error = [&] {
    const auto engine = Engine::Create(options, nullptr);
    return std::string(engine.status().message());
  };
  EXPECT_THAT(error(), HasSubstr("measure one with `tidegate profile`"));
  const std::string path = dir_.File("p.json");
  options.steering.profile = path;
  EXPECT_THAT(error(), HasSubstr(path));
  store::v1::Profile profile = TestProfile();
  profile.mutable_model()->set_embedding_rows(1000);
  WriteFileOrDie(path, ProfileText(profile));
  EXPECT_THAT(error(), HasSubstr(absl::StrCat("--profile ", path)));
  EXPECT_THAT(error(), HasSubstr("its embedding rows 1000, here 320"));
}

}  // namespace tidegate::steered_engine_test
