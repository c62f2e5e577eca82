#include "packer/read_ahead.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::read_ahead_test {

// Tensors "a" and "b" of F32, [rows, 10]; element i of the first is i, of the second -i.
class ReadAheadTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kRows = 100, kColumns = 10;

  void SetUp() override {
    std::vector<float> values(kRows * kColumns);
    GgufBuilder gguf;
    for (const float sign : {1.0f, -1.0f}) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = sign * static_cast<float>(i);
      gguf.AddTensor(sign > 0 ? "a" : "b", GgmlType::kF32, {kColumns, kRows}, values);
    }
    gguf.WriteTo(dir_.File("m.gguf"));
    file_ = std::make_unique<SourceModel>(*SourceModel::Open(dir_.File("m.gguf")));
  }

  const GgufTensor& Tensor(const char* name) const { return *file_->FindTensor(name); }

  void ExpectTakes(ReadAhead& input, const char* name, uint64_t first, uint64_t count) {
    const auto bytes = input.Take(Tensor(name), first, count);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    ASSERT_EQ(bytes->size(), count * kColumns * sizeof(float));
    for (uint64_t i = 0; i < count * kColumns; ++i) {
      float value;
      std::memcpy(&value, bytes->data() + i * sizeof(float), sizeof(value));
      const auto expected = static_cast<float>(first * kColumns + i);
      ASSERT_EQ(value, *name == 'a' ? expected : -expected);
    }
  }

  TempDir dir_;
  std::unique_ptr<SourceModel> file_;
};

TEST_F(ReadAheadTest, GivesWhatIsExpectedAndWhatIsNot) {
  ReadAhead input(*file_);
  for (uint64_t row = 0; row < kRows; row += 7) {
    input.Expect(Tensor("a"), row, std::min<uint64_t>(7, kRows - row));
  }
  input.Expect(Tensor("b"), 3, 5);
  input.Expect(Tensor("b"), 8, 2);
  for (uint64_t row = 0; row < kRows; row += 7) {
    ExpectTakes(input, "a", row, std::min<uint64_t>(7, kRows - row));
  }
  ExpectTakes(input, "b", 8, 2);  // One was guessed wrong.
  ExpectTakes(input, "b", 0, kRows);
  ExpectTakes(input, "a", 99, 1);
}

TEST_F(ReadAheadTest, WrongGuessesFillNothingForGood) {
  ReadAhead input(*file_);
  for (uint64_t row = 0; row < 20; ++row) input.Expect(Tensor("a"), row, 1);
  ExpectTakes(input, "b", 1, 1);
  ExpectTakes(input, "b", 2, 1);
  for (uint64_t row = 0; row < 20; ++row) ExpectTakes(input, "a", row, 1);
}

TEST_F(ReadAheadTest, MayEndWhileItReads) {
  ReadAhead input(*file_);
  for (uint64_t row = 0; row < kRows; ++row) input.Expect(Tensor("a"), row, 1);
}

TEST_F(ReadAheadTest, AFileThatWasCutIsTold) {
  ReadAhead input(*file_);
  ASSERT_EQ(::truncate(dir_.File("m.gguf").c_str(), static_cast<off_t>(Tensor("b").offset + 4)), 0);
  input.Expect(Tensor("b"), 0, 50);
  ExpectTakes(input, "a", 0, kRows);
  EXPECT_EQ(input.Take(Tensor("b"), 0, 50).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(input.Take(Tensor("b"), 50, 50).status().code(), absl::StatusCode::kDataLoss);
  ExpectTakes(input, "a", 5, 1);
}

}  // namespace tidegate::read_ahead_test
