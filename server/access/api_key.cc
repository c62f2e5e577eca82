#include "server/access/api_key.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

constexpr size_t kRandomBytes = 32;
static_assert(sizeof(KeyHash) == SHA256_DIGEST_LENGTH);

}  // namespace

absl::StatusOr<std::string> NewApiKey() {
  std::string bytes(kRandomBytes, '\0');
  // Up to 256 bytes come whole or not at all.
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return absl::UnavailableError("the kernel gives no random bytes for a key; try again");
  }
  std::string text = absl::WebSafeBase64Escape(bytes);
  OPENSSL_cleanse(bytes.data(), bytes.size());
  return absl::StrCat("tg-", text);
}

KeyHash HashOfKey(std::string_view key) {
  KeyHash hash;
  ::SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  return hash;
}

bool SameHash(const KeyHash& a, const KeyHash& b) {
  return ::CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string HashToHex(const KeyHash& hash) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
}

absl::StatusOr<KeyHash> HashFromHex(std::string_view text) {
  KeyHash hash;
  bool digits = text.size() == 2 * hash.size();
  for (const char c : text) digits = digits && absl::ascii_isxdigit(static_cast<unsigned char>(c));
  // Not the text: somebody may have put the key itself there.
  if (!digits) return absl::InvalidArgumentError("is not the 64 hexadecimal digits of a SHA-256");
  const std::string bytes = absl::HexStringToBytes({text.data(), text.size()});
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return hash;
}

}  // namespace tidegate
