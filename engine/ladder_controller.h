// Keeps a rate of tokens by moving along a ladder of operating points, from the most accurate (0)
// to the one that reads least. Starts at the most accurate one, so that accuracy is given up only
// for a rate that was measured and was too low.
//
// One step at a time, by the smoothed rate of windows of tokens; tokens in which the cache fills
// for a new point do not count. It goes back to a more accurate point only after some windows and
// if the rate predicted there is above the target: what the neighbour gave when it was last left or
// entered, relative to this point, at first from the bytes that both read. A rate between those of
// two points is therefore answered with the faster one and not with going to and fro. What was
// learnt fades: a drive that got better is tried again some thousand tokens later.
//
// Arithmetic only: no clock, no threads. Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tidegate {

class LadderController {
 public:
  struct Options {
    double target_tokens_per_second = 1;  // above 0
    // By point, what a token reads from flash, in any unit: does not rise. At least one point.
    std::vector<double> flash_bytes;
    uint32_t fill_tokens = 64;   // not counted at the start: the cache is empty
    uint32_t settle_tokens = 8;  // not counted after a move
    uint32_t window_tokens = 24;
    double below = 0.03, above = 0.05;  // of the target: the band in which nothing is done
  };

  explicit LadderController(Options options);

  // A token took so long. Times that are not above 0 are ignored.
  void OnToken(double seconds);

  size_t point() const { return point_; }
  // Smoothed, since the last move; that of the point before until a window has ended.
  double tokens_per_second() const { return rate_; }
  uint64_t moves() const { return moves_; }
  // It has been at the last point and too slow for some windows; until the rate is the target.
  bool out_of_reach() const { return out_of_reach_; }

 private:
  void Decide(double window_rate);
  void JudgeReach();
  void MoveTo(size_t point);
  void Learn();

  Options options_;
  std::vector<double> least_ratios_;  // by point, see ratios_: what the bytes say
  // By point: the rate at the point before it as a share of the rate at it, at most 1. [0] unused.
  std::vector<double> ratios_;
  size_t point_ = 0;
  size_t came_from_ = 0;  // the point before the last move
  double rate_before_ = 0;
  uint32_t windows_ = 0;  // since the last move
  uint32_t skip_;         // tokens still not to be counted
  uint32_t counted_ = 0;
  double seconds_ = 0;
  double rate_ = 0;
  uint64_t moves_ = 0;
  uint32_t slow_windows_ = 0;  // the latest ones, at the last point
  bool out_of_reach_ = false;
};

}  // namespace tidegate
