// Memory that is used again from step to step. A function without state: any thread.
#pragma once

#include <cstddef>
#include <vector>

namespace tidegate {

// Makes `values` at least so large, with no room to spare: resize() may take twice as much, and the
// old memory beside the new. What was in it is lost when it grows.
template <typename T>
void GrowAnew(size_t size, std::vector<T>& values) {
  if (values.size() >= size) return;
  values = std::vector<T>();
  values.resize(size);
}

}  // namespace tidegate
