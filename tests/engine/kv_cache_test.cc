#include "engine/kv_cache.h"

#include <gtest/gtest.h>

namespace tidegate {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.layer_count = 3;
  config.kv_heads = 2;
  config.head_size = 4;
  return config;
}

TEST(KvCacheTest, KeepsEveryRowApart) {
  const ModelConfig config = Config();
  for (const bool half : {false, true}) {
    KvCache kv(config, 5, half);
    std::vector<float> key(8), value(8);
    for (uint32_t layer = 0; layer < 3; ++layer) {
      for (uint32_t position = 0; position < 5; ++position) {
        for (uint32_t i = 0; i < 8; ++i) {
          key[i] = static_cast<float>(layer * 100 + position * 10 + i);
          value[i] = -key[i];
        }
        kv.Store(BestKernels(Precision::kExact), layer, position, key.data(), value.data());
      }
    }
    for (uint32_t layer = 0; layer < 3; ++layer) {
      for (uint32_t head = 0; head < 2; ++head) {
        for (uint32_t i = 0; i < 5 * 4; ++i) {
          const float expected = static_cast<float>(layer * 100 + i / 4 * 10 + head * 4 + i % 4);
          const auto at = [&](const void* rows) {
            return half ? HalfToFloat(static_cast<const uint16_t*>(rows)[i])
                        : static_cast<const float*>(rows)[i];
          };
          ASSERT_EQ(at(kv.keys(layer, head)), expected);
          ASSERT_EQ(at(kv.values(layer, head)), -expected);
          if (i % 4 != 0) continue;
          ASSERT_EQ(kv.keys(layer, head, i / 4),
                    static_cast<const std::byte*>(kv.keys(layer, head)) + i * (half ? 2 : 4));
        }
      }
    }
  }
}

TEST(KvCacheTest, BytesPerToken) {
  EXPECT_EQ(KvCache::BytesPerToken(Config(), true), 3u * 2 * 2 * 4 * 2);
  EXPECT_EQ(KvCache::BytesPerToken(Config(), false), 3u * 2 * 2 * 4 * 4);
}

}  // namespace
}  // namespace tidegate
