#include "server/kserve/infer_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::infer_request_test {

using inference::ModelInferRequest;
using testing::ElementsAre;
using testing::HasSubstr;

void AddText(ModelInferRequest& request, const char* name, const std::string& text) {
  auto& input = *request.add_inputs();
  input.set_name(name);
  input.set_datatype("BYTES");
  input.add_shape(1);
  input.mutable_contents()->add_bytes_contents(text);
}

ModelInferRequest Prompt(const std::string& text = "a") {
  ModelInferRequest request;
  AddText(request, "text_input", text);
  return request;
}

InferPlan Parsed(const ModelInferRequest& request, bool streams = true) {
  InferPlan plan;
  const absl::Status status = ParseInferRequest(request, streams, plan);
  EXPECT_TRUE(status.ok()) << status;
  return plan;
}

std::string Refused(const ModelInferRequest& request, bool streams = true) {
  InferPlan plan;
  return std::string(ParseInferRequest(request, streams, plan).message());
}

TEST(InferRequestTest, TakesWhatClientsOfVllmSend) {
  ModelInferRequest request = Prompt("Once");
  request.set_model_name("tiny");
  request.set_id("42");
  AddText(request, "sampling_parameters",
          R"({"temperature": "0.1", "top_p": 0.95, "top_k": -1, "max_tokens": 12, "min_tokens": 2,
              "seed": 18446744073709551615, "stop": ["\n", "END"], "stop_token_ids": [3],
              "ignore_eos": true, "n": 1})");
  const InferPlan plan = Parsed(request);
  EXPECT_EQ(plan.request.text(), "Once");
  EXPECT_EQ(plan.request.model(), "tiny");
  EXPECT_EQ(plan.request.request_id(), "42");
  EXPECT_FLOAT_EQ(plan.request.sampling().temperature(), 0.1f);
  EXPECT_TRUE(plan.request.sampling().has_top_k());
  EXPECT_EQ(plan.request.sampling().top_k(), 0u);
  EXPECT_EQ(plan.request.sampling().seed(), ~uint64_t{0});
  EXPECT_EQ(plan.request.max_tokens(), 12u);
  EXPECT_EQ(plan.request.stop().min_tokens(), 2u);
  EXPECT_THAT(plan.request.stop().strings(), ElementsAre("\n", "END"));
  EXPECT_THAT(plan.request.stop().token_ids(), ElementsAre(3));
  EXPECT_TRUE(plan.request.stop().ignore_eos());
  EXPECT_TRUE(plan.pieces);
  EXPECT_FALSE(plan.raw);
}

TEST(InferRequestTest, TakesParametersAndWhatClientsOfTensorRtLlmSend) {
  ModelInferRequest request = Prompt();
  request.set_id("not a request id");
  auto& parameters = *request.mutable_parameters();
  parameters["max_tokens"].set_int64_param(5);
  parameters["random_seed"].set_int64_param(7);
  parameters["bad_words"].set_string_param("");
  parameters["stop_words"].set_string_param("");
  parameters["beam_width"].set_int64_param(1);
  parameters["end_id"].set_int64_param(2);
  parameters["timeout"].set_int64_param(1500000);
  parameters["mode"].set_string_param("dense");
  parameters["triton_enable_empty_final_response"].set_bool_param(true);
  const InferPlan plan = Parsed(request);
  EXPECT_EQ(plan.request.max_tokens(), 5u);
  EXPECT_EQ(plan.request.sampling().seed(), 7u);
  EXPECT_EQ(plan.request.stop().strings_size(), 0);
  EXPECT_THAT(plan.request.stop().token_ids(), ElementsAre(2));
  EXPECT_EQ(plan.request.max_duration().seconds(), 1);
  EXPECT_EQ(plan.request.max_duration().nanos(), 500000000);
  EXPECT_EQ(plan.request.pruning().mode(), v1::DECODE_MODE_DENSE);
  EXPECT_TRUE(plan.empty_final);
  EXPECT_EQ(plan.id, "not a request id");
  EXPECT_EQ(plan.request.request_id(), "");
}

TEST(InferRequestTest, TheFormOfTheAnswer) {
  ModelInferRequest request = Prompt();
  request.add_outputs()->set_name("text_output");
  request.add_outputs()->set_name("num_output_tokens");
  EXPECT_TRUE(Parsed(request).num_output_tokens);
  EXPECT_FALSE(Parsed(request, /*streams=*/false).pieces);
  (*request.mutable_parameters())["exclude_input_in_output"].set_bool_param(false);
  EXPECT_THAT(Refused(request), HasSubstr("exclude_input_in_output"));
  EXPECT_TRUE(Parsed(request, /*streams=*/false).echo_prompt);
  (*request.mutable_parameters())["stream"].set_bool_param(false);
  EXPECT_FALSE(Parsed(request).pieces);
  (*request.mutable_parameters())["stream"].set_bool_param(true);
  EXPECT_THAT(Refused(request, /*streams=*/false), HasSubstr("ModelStreamInfer"));
  request.add_outputs()->set_name("logits");
  EXPECT_THAT(Refused(request), HasSubstr("outputs[2]: 'logits'"));
}

TEST(InferRequestTest, RefusesByName) {
  EXPECT_THAT(Refused(ModelInferRequest()), HasSubstr("text_input"));
  EXPECT_THAT(Refused(Prompt("\xff")), HasSubstr("UTF-8"));
  ModelInferRequest twice = Prompt();
  AddText(twice, "text_input", "b");
  EXPECT_THAT(Refused(twice), HasSubstr("inputs[1]: text_input is given twice"));
  const auto refused = [](const char* name, const std::string& value) {
    ModelInferRequest request = Prompt();
    (*request.mutable_parameters())[name].set_string_param(value);
    return Refused(request);
  };
  EXPECT_THAT(refused("temprature", "1"), HasSubstr("'temprature' is not known"));
  EXPECT_THAT(refused("temperature", "warm"), HasSubstr("temperature is not a number"));
  EXPECT_THAT(refused("top_k", "-2"), HasSubstr("-2"));
  EXPECT_THAT(refused("max_tokens", "4294967296"), HasSubstr("too large"));
  EXPECT_THAT(refused("n", "2"), HasSubstr("1 or nothing"));
  EXPECT_THAT(refused("priority", "1"), HasSubstr("0 or nothing"));
  EXPECT_THAT(refused("bad_words", "x"), HasSubstr("leave it out"));
  EXPECT_THAT(refused("timeout", "-1"), HasSubstr("microseconds"));
  EXPECT_THAT(refused("mode", "sparse"), HasSubstr("sparse"));
  EXPECT_THAT(refused("sampling_parameters", "{"), HasSubstr("JSON"));
  EXPECT_THAT(refused("sampling_parameters", R"({"stream": true})"), HasSubstr("not known"));
  ModelInferRequest version = Prompt();
  version.set_model_version("2");
  InferPlan plan;
  EXPECT_TRUE(absl::IsNotFound(ParseInferRequest(version, true, plan)));
}

}  // namespace tidegate::infer_request_test
