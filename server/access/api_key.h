// API keys: how one is made, and what a server keeps of it.
//
// A key is "tg-" and 32 random bytes of the kernel in base64url, 46 characters. The server keeps
// its SHA-256 alone: who reads the key file cannot call with what stands there. A salt or a slow
// hash would add nothing. They protect secrets that can be guessed, and nobody guesses 256 random
// bits. A slow hash would also let strangers spend our time. Stateless; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

using KeyHash = std::array<uint8_t, 32>;  // SHA-256 of all characters of a key

// Longest text that is looked at as a key.
inline constexpr size_t kMaxApiKeyBytes = 256;

// A new key. UNAVAILABLE if the kernel gives no random bytes.
absl::StatusOr<std::string> NewApiKey();

KeyHash HashOfKey(std::string_view key);

// Whether two hashes are the same, in a time that does not depend on how much of them is.
bool SameHash(const KeyHash& a, const KeyHash& b);

// 64 lower-case hexadecimal digits, and back. INVALID_ARGUMENT for other texts.
std::string HashToHex(const KeyHash& hash);
absl::StatusOr<KeyHash> HashFromHex(std::string_view text);

}  // namespace tidegate
