#include "server/kserve/infer_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace tidegate::infer_values_test {

using inference::ModelInferRequest;
using testing::ElementsAre;
using testing::HasSubstr;

ModelInferRequest::InferInputTensor& AddInput(ModelInferRequest& request, const char* name,
                                              const char* datatype, std::vector<int64_t> shape) {
  auto& input = *request.add_inputs();
  input.set_name(name);
  input.set_datatype(datatype);
  input.mutable_shape()->Assign(shape.begin(), shape.end());
  return input;
}

// What is wrong with it; "" if nothing is.
std::string Complaint(const ModelInferRequest& request) {
  Violations violations;
  ReadInferValues(request, violations);
  return violations.empty() ? "" : std::string(violations.ToStatus().message());
}

// Of an input with these raw bytes.
std::string ComplaintOfRaw(const char* datatype, std::vector<int64_t> shape,
                           const std::string& bytes) {
  ModelInferRequest request;
  AddInput(request, "x", datatype, std::move(shape));
  request.add_raw_input_contents(bytes);
  return Complaint(request);
}

TEST(InferValuesTest, ReadsFieldsOfTheDatatype) {
  ModelInferRequest request;
  AddInput(request, "a", "BYTES", {1, 2}).mutable_contents()->add_bytes_contents("x");
  request.mutable_inputs(0)->mutable_contents()->add_bytes_contents("y");
  AddInput(request, "b", "INT32", {1}).mutable_contents()->add_int_contents(-7);
  AddInput(request, "c", "FP32", {1, 1}).mutable_contents()->add_fp32_contents(0.5f);
  (*request.mutable_parameters())["d"].set_uint64_param(9);
  Violations violations;
  const std::vector<InferValue> values = ReadInferValues(request, violations);
  ASSERT_TRUE(violations.empty());
  ASSERT_EQ(values.size(), 4u);
  EXPECT_THAT(values[0].elements, ElementsAre(InferScalar("x"), InferScalar("y")));
  EXPECT_THAT(values[1].elements, ElementsAre(InferScalar(int64_t{-7})));
  EXPECT_THAT(values[2].elements, ElementsAre(InferScalar(0.5)));
  EXPECT_THAT(values[3].elements, ElementsAre(InferScalar(uint64_t{9})));
  EXPECT_EQ(values[3].field, "parameters[d]");
}

TEST(InferValuesTest, ReadsRawBytes) {
  ModelInferRequest request;
  AddInput(request, "a", "BYTES", {2});
  request.add_raw_input_contents(std::string("\x02\0\0\0hi\0\0\0\0", 10));
  AddInput(request, "b", "INT16", {1});
  request.add_raw_input_contents("\xfe\xff");
  AddInput(request, "c", "BOOL", {1});
  request.add_raw_input_contents("\x01");
  Violations violations;
  const std::vector<InferValue> values = ReadInferValues(request, violations);
  ASSERT_TRUE(violations.empty());
  EXPECT_THAT(values[0].elements, ElementsAre(InferScalar("hi"), InferScalar("")));
  EXPECT_THAT(values[1].elements, ElementsAre(InferScalar(int64_t{-2})));
  EXPECT_THAT(values[2].elements, ElementsAre(InferScalar(true)));
}

TEST(InferValuesTest, SizesAreChecked) {
  EXPECT_THAT(ComplaintOfRaw("BYTES", {1}, std::string("\x03\0\0\0hi", 6)),
              HasSubstr("6 raw bytes"));
  EXPECT_THAT(ComplaintOfRaw("BYTES", {1}, "\xff\xff\xff\xff"), HasSubstr("4 raw bytes"));
  EXPECT_THAT(ComplaintOfRaw("BYTES", {1}, std::string("\0\0\0\0!", 5)), HasSubstr("5 raw bytes"));
  EXPECT_THAT(ComplaintOfRaw("UINT32", {2}, "1234"), HasSubstr("are not 2 elements"));
  EXPECT_THAT(ComplaintOfRaw("BOOL", {1}, "\x02"), HasSubstr("1 raw bytes"));
  EXPECT_THAT(ComplaintOfRaw("FP16", {1}, "12"), HasSubstr("'FP16'"));
  EXPECT_THAT(ComplaintOfRaw("UINT8", {}, "1"), HasSubstr("0 dimensions"));
  EXPECT_THAT(ComplaintOfRaw("UINT8", {-1}, "1"), HasSubstr("negative"));
  EXPECT_THAT(ComplaintOfRaw("UINT8", {64, 64}, "1"), HasSubstr("more than 64"));
  EXPECT_THAT(ComplaintOfRaw("UINT8", {std::numeric_limits<int64_t>::max()}, "1"),
              HasSubstr("more than 64"));
  ModelInferRequest request;
  AddInput(request, "a", "BYTES", {2}).mutable_contents()->add_bytes_contents("x");
  EXPECT_THAT(Complaint(request), HasSubstr("1 elements"));
  request.add_raw_input_contents("x");
  EXPECT_THAT(Complaint(request), HasSubstr("beside raw_input_contents"));
  request.add_raw_input_contents("x");
  EXPECT_THAT(Complaint(request), HasSubstr("2 entries for 1 inputs"));
  (*request.mutable_parameters())["empty"];
  EXPECT_THAT(Complaint(request), HasSubstr("1 more"));
}

TEST(InferValuesTest, ReadsSamplingParametersOfJson) {
  Violations violations;
  const auto values =
      ReadSamplingJson("json", R"({"a": "0.7", "b": [1, "x"], "c": null})", violations);
  ASSERT_TRUE(violations.empty());
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(values[0].field, "json.a");
  EXPECT_THAT(values[1].elements, ElementsAre(InferScalar(uint64_t{1}), InferScalar("x")));
  for (const char* wrong : {"", "[1]", "{\"a\":", R"({"a": {"b": 1}})", R"({"a": [[1]]})"}) {
    Violations complaints;
    ReadSamplingJson("json", wrong, complaints);
    EXPECT_FALSE(complaints.empty()) << wrong;
  }
  Violations complaints;
  ReadSamplingJson("json", std::string(kMaxSamplingJsonBytes, '['), complaints);  // deep
  ReadSamplingJson("json", std::string(kMaxSamplingJsonBytes + 1, ' '), complaints);
  EXPECT_THAT(std::string(complaints.ToStatus().message()), HasSubstr("(and 1 more)"));
}

TEST(InferValuesTest, ReadsWhatIsMeant) {
  EXPECT_EQ(ToReal("0.7").value(), 0.7);
  EXPECT_EQ(ToReal(int64_t{-2}).value(), -2);
  EXPECT_FALSE(ToReal("nan").ok());
  EXPECT_FALSE(ToReal(true).ok());
  EXPECT_EQ(ToInteger("-3").value(), -3);
  EXPECT_EQ(ToInteger(4.0).value(), 4);
  EXPECT_FALSE(ToInteger(4.5).ok());
  EXPECT_FALSE(ToInteger(1e300).ok());
  EXPECT_FALSE(ToInteger(std::numeric_limits<double>::quiet_NaN()).ok());
  EXPECT_FALSE(ToInteger(std::numeric_limits<uint64_t>::max()).ok());
  EXPECT_EQ(ToUnsigned(std::numeric_limits<uint64_t>::max()).value(),
            std::numeric_limits<uint64_t>::max());
  EXPECT_FALSE(ToUnsigned(int64_t{-1}).ok());
  EXPECT_FALSE(ToUnsigned("-1").ok());
  EXPECT_TRUE(ToFlag("True").value());
  EXPECT_FALSE(ToFlag(int64_t{0}).value());
  EXPECT_FALSE(ToFlag(int64_t{2}).ok());
  EXPECT_EQ(ToText("x").value(), "x");
  EXPECT_FALSE(ToText("\xff").ok());
  EXPECT_FALSE(ToText(1.0).ok());
}

}  // namespace tidegate::infer_values_test
