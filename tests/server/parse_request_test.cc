#include "server/parse_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "engine/request_limits.h"
#include "server/status_mapping.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"
#include "tests/support/error_details.h"

namespace tidegate::parse_request_test {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using testing::UnorderedElementsAre;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kContext = 32;
constexpr int32_t kMaxPriorityHere = 10;
const auto kNow = std::chrono::steady_clock::time_point(std::chrono::seconds(1000));

class ParseRequestTest : public testing::Test {
 protected:
  absl::StatusOr<GenerationRequest> Parse(const v1::GenerateRequest& request) {
    return ParseGenerateRequest(request, {*tokenizer_, bounds_, kContext, kMaxPriorityHere}, kNow);
  }
  // Field -> description.
  std::vector<std::pair<std::string, std::string>> ViolationsOf(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    const auto bad = DetailOf<google::rpc::BadRequest>(ToGrpcStatus(status, {}));
    std::vector<std::pair<std::string, std::string>> found;
    if (!bad.has_value()) return found;
    for (const auto& v : bad->field_violations()) found.emplace_back(v.field(), v.description());
    return found;
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = MakeTokenizer(TinyVocabulary({{"\u2581a", -1}}));
  const PruningBounds bounds_{
      .defaults = {}, .density_min = 0.25f, .density_max = 0.9f, .gamma_min = 0.1f};
};

v1::GenerateRequest Good() {
  v1::GenerateRequest request;
  request.set_text("a");
  return request;
}

TEST_F(ParseRequestTest, DefaultsAreTheEnginesAndTheServers) {
  const auto parsed = Parse(Good());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->prompt, ElementsAre(kTinyBos, kTinyFirstPiece));
  const SamplingParams defaults;
  EXPECT_EQ(parsed->max_tokens, GenerationRequest().max_tokens);
  EXPECT_EQ(parsed->sampling.temperature, defaults.temperature);
  EXPECT_EQ(parsed->sampling.top_k, defaults.top_k);
  EXPECT_FALSE(parsed->sampling.seed.has_value());
  EXPECT_EQ(parsed->pruning.density, bounds_.defaults.density);
  EXPECT_EQ(parsed->pruning.mode, DecodeMode::kDipCa);
  EXPECT_FALSE(parsed->time_limit.has_value());
  EXPECT_EQ(parsed->priority, 0);
  EXPECT_EQ(parsed->cache_salt, "");
  EXPECT_EQ(parsed->stop.min_tokens, 0u);
  EXPECT_FALSE(parsed->top_logprobs.has_value());
}

TEST_F(ParseRequestTest, PrioritiesAreWithinTheServersBound) {
  for (const int32_t priority : {-kMaxPriority, -1, 0, kMaxPriorityHere}) {
    v1::GenerateRequest request;
    request.set_text("a");
    request.set_priority(priority);
    const auto parsed = Parse(request);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->priority, priority);
  }
}

TEST_F(ParseRequestTest, TakesEveryField) {
  v1::GenerateRequest request;
  for (const uint32_t id : {1, 5, 6}) request.mutable_token_ids()->add_ids(id);
  request.set_max_tokens(9);
  request.mutable_max_duration()->set_seconds(3);
  request.mutable_max_duration()->set_nanos(500000000);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_top_k(0);
  sampling.set_top_p(1);
  sampling.set_min_p(0);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_presence_penalty(-2);
  sampling.set_frequency_penalty(2);
  sampling.set_penalty_window(0);
  sampling.set_seed(0);
  (*sampling.mutable_logit_bias())[7] = -kInfinity;
  (*sampling.mutable_logit_bias())[3] = 1;
  request.mutable_stop()->add_strings("END");
  request.mutable_stop()->add_token_ids(4);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_stop()->set_include_stop_string(true);
  request.mutable_stop()->set_min_tokens(9);
  request.set_priority(-3);
  request.set_cache_salt("of/one:tenant");
  request.set_progress(true);
  request.set_top_logprobs(0);
  v1::Pruning& pruning = *request.mutable_pruning();
  pruning.set_mode(v1::DECODE_MODE_DIP);
  pruning.set_density(0.5f);
  pruning.set_gamma(0.1f);
  pruning.set_fixed_top_n(8);
  pruning.set_protected_share(0.25f);
  pruning.set_warm_up(false);
  pruning.set_reproducible(true);

  const auto parsed = Parse(request);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->prompt, ElementsAre(1, 5, 6));
  EXPECT_EQ(parsed->max_tokens, 9u);
  EXPECT_EQ(*parsed->time_limit, kNow + std::chrono::milliseconds(3500));
  EXPECT_EQ(parsed->sampling.temperature, 0);
  EXPECT_EQ(parsed->sampling.top_k, 0u);
  EXPECT_EQ(parsed->sampling.top_p, 1);
  EXPECT_EQ(parsed->sampling.min_p, 0);
  EXPECT_EQ(parsed->sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(parsed->sampling.presence_penalty, -2);
  EXPECT_EQ(parsed->sampling.frequency_penalty, 2);
  EXPECT_EQ(parsed->sampling.penalty_window, 0u);
  EXPECT_EQ(parsed->sampling.seed, 0u);
  EXPECT_THAT(parsed->sampling.logit_bias, ElementsAre(Pair(3, 1.0f), Pair(7, -kInfinity)));
  EXPECT_THAT(parsed->stop.strings, ElementsAre("END"));
  EXPECT_THAT(parsed->stop.token_ids, ElementsAre(4));
  EXPECT_TRUE(parsed->stop.ignore_eos);
  EXPECT_TRUE(parsed->stop.include_stop_string);
  EXPECT_EQ(parsed->stop.min_tokens, 9u);
  EXPECT_EQ(parsed->priority, -3);
  EXPECT_TRUE(parsed->progress);
  EXPECT_EQ(parsed->top_logprobs, 0u);
  EXPECT_EQ(parsed->cache_salt, "of/one:tenant");
  EXPECT_EQ(parsed->pruning.mode, DecodeMode::kDip);
  EXPECT_EQ(parsed->pruning.density, 0.5f);
  EXPECT_EQ(parsed->pruning.gamma, 0.1f);
  EXPECT_EQ(parsed->pruning.fixed_top_n, 8u);
  EXPECT_EQ(parsed->pruning.protected_share, 0.25f);
  EXPECT_FALSE(parsed->pruning.warm_up);
  EXPECT_TRUE(parsed->pruning.reproducible);
}

// What the server may steer is left to it as a whole.
TEST_F(ParseRequestTest, OneOfTheSteeredFieldsTakesThemAll) {
  const std::function<void(v1::Pruning&)> sets[] = {
      [](v1::Pruning& p) { p.set_density(0.5f); }, [](v1::Pruning& p) { p.set_gamma(0.5f); },
      [](v1::Pruning& p) { p.set_fixed_top_n(0); },
      [](v1::Pruning& p) { p.set_protected_share(0.75f); }};
  v1::GenerateRequest request;
  request.set_text("x");
  EXPECT_TRUE(Parse(request)->pruning.FollowsLadder());
  request.mutable_pruning()->set_warm_up(false);
  EXPECT_TRUE(Parse(request)->pruning.FollowsLadder());
  for (const auto& set : sets) {
    v1::GenerateRequest own = request;
    set(*own.mutable_pruning());
    EXPECT_FALSE(Parse(own)->pruning.FollowsLadder()) << own.ShortDebugString();
  }
  request.mutable_pruning()->set_reproducible(true);
  EXPECT_FALSE(Parse(request)->pruning.FollowsLadder());
  request.mutable_pruning()->set_reproducible(false);
  request.mutable_pruning()->set_mode(v1::DECODE_MODE_DIP);
  EXPECT_FALSE(Parse(request)->pruning.FollowsLadder());
}

struct BadCase {
  const char* name;
  std::function<void(v1::GenerateRequest&)> damage;
  const char* field;
  const char* text;  // part of the description
};
class BadRequestTest : public ParseRequestTest, public testing::WithParamInterface<BadCase> {};

TEST_P(BadRequestTest, NamesFieldAndRange) {
  v1::GenerateRequest request = Good();
  GetParam().damage(request);
  const auto violations = ViolationsOf(Parse(request).status());
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].first, GetParam().field);
  EXPECT_THAT(violations[0].second, HasSubstr(GetParam().text));
}

using Request = v1::GenerateRequest;
INSTANTIATE_TEST_SUITE_P(
    All, BadRequestTest,
    testing::Values(
        BadCase{"NoPrompt", [](Request& r) { r.clear_prompt(); }, "prompt", "missing"},
        BadCase{"EmptyText", [](Request& r) { r.set_text(""); }, "text", "from 1 to 1048576"},
        BadCase{"HugeText", [](Request& r) { r.set_text(std::string((1 << 20) + 1, 'a')); }, "text",
                "1048577 bytes"},
        BadCase{"NoIds", [](Request& r) { r.mutable_token_ids(); }, "token_ids", "empty"},
        BadCase{"UnknownId",
                [](Request& r) {
                  r.mutable_token_ids()->add_ids(1);
                  r.mutable_token_ids()->add_ids(4000000000u);
                },
                "token_ids.ids[1]", "outside [0, 260)"},
        BadCase{"NoTokens", [](Request& r) { r.set_max_tokens(0); }, "max_tokens", "0 is outside"},
        BadCase{"Cold", [](Request& r) { r.mutable_sampling()->set_temperature(-0.1f); },
                "sampling.temperature", "[0, 100]"},
        BadCase{"NanTemperature", [](Request& r) { r.mutable_sampling()->set_temperature(kNan); },
                "sampling.temperature", "nan is outside"},
        BadCase{"TopP", [](Request& r) { r.mutable_sampling()->set_top_p(0); }, "sampling.top_p",
                "(0, 1]"},
        BadCase{"MinP", [](Request& r) { r.mutable_sampling()->set_min_p(1.1f); }, "sampling.min_p",
                "[0, 1]"},
        BadCase{"Repetition", [](Request& r) { r.mutable_sampling()->set_repetition_penalty(0); },
                "sampling.repetition_penalty", "(0, 10]"},
        BadCase{"Presence", [](Request& r) { r.mutable_sampling()->set_presence_penalty(11); },
                "sampling.presence_penalty", "[-10, 10]"},
        BadCase{"Frequency", [](Request& r) { r.mutable_sampling()->set_frequency_penalty(-11); },
                "sampling.frequency_penalty", "[-10, 10]"},
        BadCase{"Window", [](Request& r) { r.mutable_sampling()->set_penalty_window(65537); },
                "sampling.penalty_window", "[0, 65536]"},
        BadCase{"BiasId",
                [](Request& r) { (*r.mutable_sampling()->mutable_logit_bias())[260] = 1; },
                "sampling.logit_bias[260]", "outside [0, 260)"},
        BadCase{"BiasValue",
                [](Request& r) { (*r.mutable_sampling()->mutable_logit_bias())[3] = kInfinity; },
                "sampling.logit_bias[3]", "inf"},
        BadCase{"BiasCount",
                [](Request& r) {
                  for (uint32_t i = 0; i < 1025; ++i) {
                    (*r.mutable_sampling()->mutable_logit_bias())[i] = 0;
                  }
                },
                "sampling.logit_bias", "1025 entries; at most 1024"}),
    [](const auto& param) { return param.param.name; });
INSTANTIATE_TEST_SUITE_P(
    More, BadRequestTest,
    testing::Values(
        BadCase{"StopCount",
                [](Request& r) {
                  for (int i = 0; i < 17; ++i) r.mutable_stop()->add_strings(std::string(1, 'x'));
                },
                "stop.strings", "17 strings; at most 16"},
        BadCase{"StopEmpty", [](Request& r) { r.mutable_stop()->add_strings(std::string()); },
                "stop.strings[0]", "from 1 to 256"},
        BadCase{"StopLong",
                [](Request& r) { r.mutable_stop()->add_strings(std::string(257, 'x')); },
                "stop.strings[0]", "257 bytes"},
        BadCase{"StopIds",
                [](Request& r) {
                  for (int i = 0; i < 65; ++i) r.mutable_stop()->add_token_ids(1);
                },
                "stop.token_ids", "65 ids; at most 64"},
        BadCase{"StopId", [](Request& r) { r.mutable_stop()->add_token_ids(260); },
                "stop.token_ids[0]", "outside [0, 260)"},
        BadCase{"Mode",
                [](Request& r) { r.mutable_pruning()->set_mode(static_cast<v1::DecodeMode>(9)); },
                "pruning.mode", "9 is no DecodeMode"},
        BadCase{"Density", [](Request& r) { r.mutable_pruning()->set_density(0.2f); },
                "pruning.density", "0.2 is outside [0.25, 0.9]"},
        BadCase{"DensityHigh", [](Request& r) { r.mutable_pruning()->set_density(1); },
                "pruning.density", "[0.25, 0.9]"},
        BadCase{"Gamma", [](Request& r) { r.mutable_pruning()->set_gamma(0); }, "pruning.gamma",
                "0 is outside [0.1, 1]"},
        BadCase{"TopN", [](Request& r) { r.mutable_pruning()->set_fixed_top_n(2000000); },
                "pruning.fixed_top_n", "[0, 1048576]"},
        BadCase{"Share", [](Request& r) { r.mutable_pruning()->set_protected_share(1.5f); },
                "pruning.protected_share", "1.5 is outside [0, 1]"},
        BadCase{"NoTime", [](Request& r) { r.mutable_max_duration(); }, "max_duration",
                "outside (0 s, 86400 s]"},
        BadCase{"NegativeTime", [](Request& r) { r.mutable_max_duration()->set_seconds(-1); },
                "max_duration", "outside"},
        BadCase{"LongTime",
                [](Request& r) {
                  r.mutable_max_duration()->set_seconds(std::numeric_limits<int64_t>::max());
                },
                "max_duration", "outside"},
        BadCase{"OddNanos", [](Request& r) { r.mutable_max_duration()->set_nanos(2000000000); },
                "max_duration", "outside"},
        BadCase{"LongId", [](Request& r) { r.set_request_id(std::string(129, 'x')); }, "request_id",
                "at most 128"},
        BadCase{"Logprobs", [](Request& r) { r.set_top_logprobs(21); }, "top_logprobs",
                "21 is outside [0, 20]"},
        BadCase{"LowPriority", [](Request& r) { r.set_priority(-1001); }, "priority",
                "-1001 is outside [-1000, 10]"},
        BadCase{"HighPriority", [](Request& r) { r.set_priority(11); }, "priority",
                "11 is outside [-1000, 10]; the server's --max-priority"},
        BadCase{"ShortKeepAlive", [](Request& r) { r.mutable_keep_alive()->set_nanos(99'999'999); },
                "keep_alive", "0 s 99999999 ns is outside [100 ms, 3600000 ms]"},
        BadCase{"LongKeepAlive",
                [](Request& r) {
                  r.mutable_keep_alive()->set_seconds(std::numeric_limits<int64_t>::max());
                },
                "keep_alive", "outside"},
        BadCase{"PromptLogprobs", [](Request& r) { r.set_prompt_logprobs(21); }, "prompt_logprobs",
                "21 is outside [0, 20]"},
        BadCase{"NoChoice", [](Request& r) { r.set_choices(0); }, "choices",
                "0 is outside [1, 16]; the server's --max-choices"},
        BadCase{"ManyChoices", [](Request& r) { r.set_choices(17); }, "choices", "17 is outside"},
        BadCase{"LongSalt", [](Request& r) { r.set_cache_salt(std::string(129, 'x')); },
                "cache_salt", "at most 128"},
        BadCase{"OddSalt", [](Request& r) { r.set_cache_salt("a b"); }, "cache_salt", "printable"},
        BadCase{"MinTokens",
                [](Request& r) {
                  r.set_max_tokens(5);
                  r.mutable_stop()->set_min_tokens(6);
                },
                "stop.min_tokens", "6 is outside [0, 5]; max_tokens"},
        BadCase{"OddId", [](Request& r) { r.set_request_id("a\nb"); }, "request_id", "printable"}),
    [](const auto& param) { return param.param.name; });

TEST_F(ParseRequestTest, ReportsEverythingTogether) {
  v1::GenerateRequest request;
  request.set_max_tokens(0);
  request.mutable_sampling()->set_top_p(2);
  request.mutable_pruning()->set_density(1.5f);
  const absl::Status status = Parse(request).status();
  std::vector<std::string> fields;
  for (const auto& [field, text] : ViolationsOf(status)) fields.push_back(field);
  EXPECT_THAT(fields,
              UnorderedElementsAre("prompt", "max_tokens", "sampling.top_p", "pruning.density"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("(and 3 more)"));
}

TEST_F(ParseRequestTest, BoundsTheReport) {
  v1::GenerateRequest request = Good();
  for (uint32_t i = 0; i < 1000; ++i) {
    (*request.mutable_sampling()->mutable_logit_bias())[1000 + i] = 0;
  }
  const absl::Status status = Parse(request).status();
  EXPECT_EQ(ViolationsOf(status).size(), 16u);
  EXPECT_THAT(std::string(status.message()), HasSubstr("(and 999 more)"));
  EXPECT_LT(ToGrpcStatus(status, {}).error_details().size(), 4096u);
}

TEST_F(ParseRequestTest, APromptMustLeaveRoomForOneToken) {
  v1::GenerateRequest request;
  for (uint32_t i = 0; i < kContext - 1; ++i) request.mutable_token_ids()->add_ids(5);
  EXPECT_TRUE(Parse(request).ok());
  request.mutable_token_ids()->add_ids(5);
  const absl::Status status = Parse(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  const auto info = DetailOf<google::rpc::ErrorInfo>(ToGrpcStatus(status, {}));
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(info->metadata().at("prompt_tokens"), "32");
  EXPECT_EQ(info->metadata().at("context_tokens"), "32");
}

TEST_F(ParseRequestTest, TokenizerRequests) {
  v1::TokenizeRequest text;
  EXPECT_TRUE(CheckTokenizeRequest(text).ok());
  text.set_text(std::string(kMaxPromptBytes + 1, 'a'));
  EXPECT_EQ(ViolationsOf(CheckTokenizeRequest(text)).at(0).first, "text");
  v1::DetokenizeRequest ids;
  ids.add_token_ids(259);
  EXPECT_TRUE(CheckDetokenizeRequest(ids, *tokenizer_).ok());
  ids.add_token_ids(260);
  EXPECT_EQ(ViolationsOf(CheckDetokenizeRequest(ids, *tokenizer_)).at(0).first, "token_ids[1]");
  ids.mutable_token_ids()->Resize(static_cast<int>(kMaxDetokenizeIds) + 1, 0);
  EXPECT_EQ(ViolationsOf(CheckDetokenizeRequest(ids, *tokenizer_)).at(0).first, "token_ids");
}

v1::ChatRequest GoodChat() {
  v1::ChatRequest request;
  request.add_messages()->set_role("user");
  return request;
}

TEST_F(ParseRequestTest, ChatTakesThePromptThatIsMadeOfIt) {
  v1::ChatRequest request = GoodChat();
  request.set_max_tokens(9);
  request.mutable_sampling()->set_temperature(0);
  const RequestBounds bounds{*tokenizer_, bounds_, kContext};
  const auto parse = [&](std::vector<TokenId> prompt) {
    return ParseChatRequest(
        request, bounds, kNow,
        [&](const v1::ChatRequest&) -> absl::StatusOr<std::vector<TokenId>> { return prompt; });
  };
  const auto parsed = parse({5, 6});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->prompt, ElementsAre(5, 6));
  EXPECT_EQ(parsed->max_tokens, 9u);
  EXPECT_EQ(parsed->sampling.temperature, 0);
  EXPECT_THAT(ViolationsOf(parse({}).status()),
              ElementsAre(Pair("messages", HasSubstr("empty prompt"))));
  EXPECT_EQ(parse(std::vector<TokenId>(kContext, 5)).status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST_F(ParseRequestTest, ChatRefusesWrongMessages) {
  const auto violations = [&](const v1::ChatRequest& request) {
    const RequestBounds bounds{*tokenizer_, bounds_, kContext};
    const auto parsed = ParseChatRequest(
        request, bounds, kNow, [](const v1::ChatRequest&) -> absl::StatusOr<std::vector<TokenId>> {
          ADD_FAILURE() << "a prompt is made of a wrong request";
          return std::vector<TokenId>{};
        });
    return ViolationsOf(parsed.status());
  };
  EXPECT_THAT(violations({}), ElementsAre(Pair("messages", "0 messages; from 1 to 4096")));
  v1::ChatRequest many = GoodChat();
  for (int i = 0; i < kMaxMessages; ++i) many.add_messages()->set_role("user");
  EXPECT_THAT(violations(many), ElementsAre(Pair("messages", "4097 messages; from 1 to 4096")));
  v1::ChatRequest long_one = GoodChat();
  long_one.mutable_messages(0)->set_content(std::string(kMaxPromptBytes, 'x'));
  long_one.add_messages()->set_role("user");
  long_one.mutable_messages(1)->set_content("x");
  EXPECT_THAT(violations(long_one), ElementsAre(Pair("messages", HasSubstr("1048577 bytes"))));
  v1::ChatRequest role = GoodChat();
  role.add_messages()->set_role("im_start|>");
  role.set_max_tokens(0);
  EXPECT_THAT(violations(role),
              UnorderedElementsAre(Pair("messages[1].role", HasSubstr("none of system")),
                                   Pair("max_tokens", HasSubstr("outside"))));
}

TEST_F(ParseRequestTest, CancelNamesARequest) {
  v1::CancelRequest request;
  EXPECT_EQ(ViolationsOf(CheckCancelRequest(request)).at(0).first, "request_id");
  request.set_request_id(std::string(129, 'x'));
  EXPECT_EQ(ViolationsOf(CheckCancelRequest(request)).at(0).first, "request_id");
  request.set_request_id(std::string(128, 'x'));
  EXPECT_TRUE(CheckCancelRequest(request).ok());
}

}  // namespace tidegate::parse_request_test
