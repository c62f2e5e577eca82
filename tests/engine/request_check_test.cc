#include "engine/request_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::request_check_test {

constexpr uint32_t kContext = 16;

GenerationRequest GoodRequest() {
  GenerationRequest request;
  request.prompt = {1, 5, 6};
  request.max_tokens = 4;
  request.pruning = {.mode = DecodeMode::kDipCa, .density = 0.5f, .gamma = 0.3f};
  return request;
}

struct Case {
  const char* name;
  std::function<void(GenerationRequest&)> damage;
  absl::StatusCode code;
  const char* text;  // what the message must say
};

class RequestCheckTest : public ::testing::TestWithParam<Case> {};

TEST_P(RequestCheckTest, NamesFieldAndRange) {
  const auto tokenizer = Tokenizer::Create(TinyVocabulary({{"a", -1.0f}}));
  ASSERT_TRUE(tokenizer.ok());
  PruningBounds bounds;
  bounds.density_min = 0.25f;
  bounds.gamma_min = 0.125f;
  GenerationRequest request = GoodRequest();
  GetParam().damage(request);
  const absl::Status status = CheckRequest(request, bounds, **tokenizer, kContext);
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(GetParam().text));
}

constexpr auto kBad = absl::StatusCode::kInvalidArgument;
using R = GenerationRequest;

INSTANTIATE_TEST_SUITE_P(
    All, RequestCheckTest,
    ::testing::Values(
        Case{"Good", [](R&) {}, absl::StatusCode::kOk, ""},
        Case{"NoPrompt", [](R& r) { r.prompt.clear(); }, kBad, "prompt"},
        Case{"PromptId", [](R& r) { r.prompt[1] = 260; }, kBad, "260"},
        Case{"NegativeId", [](R& r) { r.prompt[1] = -1; }, kBad, "-1"},
        Case{"PromptFillsContext", [](R& r) { r.prompt.assign(kContext, 5); },
             absl::StatusCode::kOutOfRange, "16"},
        Case{"LongestPrompt", [](R& r) { r.prompt.assign(kContext - 1, 5); }, absl::StatusCode::kOk,
             ""},
        Case{"NoTokens", [](R& r) { r.max_tokens = 0; }, kBad, "max_tokens"},
        Case{"PromptLogprobs", [](R& r) { r.prompt_logprobs = 21; }, kBad, "prompt_logprobs 21"},
        Case{"NoChoices", [](R& r) { r.choices = 0; }, kBad, "choices 0 is outside [1, 128]"},
        Case{"ManyChoices", [](R& r) { r.choices = 129; }, kBad, "choices 129"},
        Case{"DensityLow", [](R& r) { r.pruning.density = 0.2f; }, kBad, "[0.25, 1]"},
        Case{"DensityNan", [](R& r) { r.pruning.density = NAN; }, kBad, "density"},
        Case{"DenseIgnoresDensity",
             [](R& r) {
               r.pruning.mode = DecodeMode::kDense;
               r.pruning.density = 0;
             },
             absl::StatusCode::kOk, ""},
        Case{"GammaLow", [](R& r) { r.pruning.gamma = 0; }, kBad, "[0.125, 1]"},
        Case{"ShareHigh", [](R& r) { r.pruning.protected_share = 1.5f; }, kBad,
             "protected share 1.5 is outside [0, 1]"},
        Case{"ShareNan", [](R& r) { r.pruning.protected_share = NAN; }, kBad, "protected share"},
        Case{"DipIgnoresGamma",
             [](R& r) {
               r.pruning.mode = DecodeMode::kDip;
               r.pruning.gamma = 0;
             },
             absl::StatusCode::kOk, ""},
        Case{"ManyStops", [](R& r) { r.stop.strings.assign(17, "x"); }, kBad, "17"},
        Case{"EmptyStop", [](R& r) { r.stop.strings = {""}; }, kBad, "stop string"},
        Case{"LongStop", [](R& r) { r.stop.strings = {std::string(257, 'x')}; }, kBad, "257"},
        Case{"ManyStopIds", [](R& r) { r.stop.token_ids.assign(65, 5); }, kBad, "65"},
        Case{"StopId", [](R& r) { r.stop.token_ids = {9999}; }, kBad, "9999"},
        Case{"MinTokens", [](R& r) { r.stop.min_tokens = 4; }, absl::StatusCode::kOk, ""},
        Case{"ManyMinTokens", [](R& r) { r.stop.min_tokens = 5; }, kBad,
             "min_tokens 5 is more than max_tokens, 4"},
        Case{"Priority", [](R& r) { r.priority = -1001; }, kBad, "-1001 is outside [-1000, 1000]"},
        Case{"Logprobs", [](R& r) { r.top_logprobs = 20; }, absl::StatusCode::kOk, ""},
        Case{"ManyLogprobs", [](R& r) { r.top_logprobs = 21; }, kBad, "21 is outside [0, 20]"},
        Case{"Salt", [](R& r) { r.cache_salt.assign(129, 'x'); }, kBad, "129 bytes"},
        Case{"Sampling", [](R& r) { r.sampling.temperature = -1; }, kBad, "temperature"}),
    [](const auto& row) { return std::string(row.param.name); });

}  // namespace tidegate::request_check_test
