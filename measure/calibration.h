// What `tidegate pack --calibrate` learns from a text: the moments of the MLPs' inputs, which steer
// rounding (packer/error_feedback.h), and what the rounding then costs on a part of the
// text that had no say in it. Owned by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "measure/text_score.h"
#include "packer/input_moments.h"

namespace tidegate {

struct CalibrationOptions {
  std::string model;                 // a GGUF file or a Hugging Face folder
  std::string text;                  // file; documents separated by <|endoftext|>
  uint64_t tokens_max = 0;           // taken from the start of the text; 0: all
  std::vector<LoraSource> adapters;  // to be merged
};

// The tokens of a text in chunks, each with an empty KV cache; every eighth is held out.
class CalibrationText {
 public:
  // INVALID_ARGUMENT: fewer than eight chunks.
  static absl::StatusOr<CalibrationText> Create(std::vector<TokenId> tokens, uint64_t tokens_max);

  uint64_t chunks() const { return (tokens_.size() - 1) / kChunkTokens; }
  static bool HeldOut(uint64_t chunk) { return chunk % kPeriod == kPeriod - 1; }
  absl::Status AddScore(uint64_t chunk, LocalModel& local, Score& score) const;

  static constexpr uint64_t kChunkTokens = 256;
  static constexpr uint64_t kPeriod = 8;

 private:
  std::vector<TokenId> tokens_;
};

struct Calibration {
  std::vector<LayerMoments> moments;  // by layer
  uint64_t tokens = 0;                // that they are sums over
  CalibrationText text;
  Score source;  // of the held-out chunks, with 8-bit units
};

// Packs the model into a temporary file with 8-bit units and runs it over the text. Takes, besides
// that file, at most 1 GiB for moments, the model's static weights and activations. The same text
// gives the same moments, whatever the number of threads.
absl::StatusOr<Calibration> Calibrate(const CalibrationOptions& options);

// The held-out chunks with the units of a pack.
absl::StatusOr<Score> ScoreHeldOut(const CalibrationText& text, const std::string& pack);

}  // namespace tidegate
