// Seeded random numbers for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace tidegate {

// Normally distributed around 0.
inline std::vector<float> RandomFloats(size_t count, std::mt19937& random, float deviation = 1) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}
inline std::vector<float> Normals(size_t count, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  return RandomFloats(count, random, deviation);
}

}  // namespace tidegate
