#include "tests/support/test_certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdint>
#include <random>

#include "base/check.h"

namespace tidegate {
namespace {

constexpr int kDaySeconds = 24 * 3600;
constexpr int kExpired = -kDaySeconds;

template <typename Write>
std::string PemOf(Write write) {
  BIO* const bio = BIO_new(BIO_s_mem());
  CHECK(write(bio) == 1);
  char* bytes = nullptr;
  const long count = BIO_get_mem_data(bio, &bytes);
  std::string pem(bytes, static_cast<size_t>(count));
  BIO_free(bio);
  return pem;
}

std::string PemOfCertificate(X509* certificate) {
  return PemOf([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

void AddExtension(X509* certificate, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
  CHECK(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// Without a signature, valid from two days ago for so long from now. `issuer` null: itself.
X509* NewCertificate(const std::string& name, int valid_seconds, EVP_PKEY* key, X509* issuer) {
  X509* const certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), std::random_device()());
  X509_gmtime_adj(X509_getm_notBefore(certificate), -2 * kDaySeconds);
  X509_gmtime_adj(X509_getm_notAfter(certificate), valid_seconds);
  X509_set_pubkey(certificate, key);
  X509_NAME* const subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, issuer == nullptr ? subject : X509_get_subject_name(issuer));
  return certificate;
}

}  // namespace

struct TestAuthority::Keys {
  EVP_PKEY* key = nullptr;
  X509* certificate = nullptr;
  std::string pem;
};

TestAuthority::TestAuthority() : keys_(new Keys) {
  keys_->key = EVP_EC_gen("P-256");
  CHECK(keys_->key != nullptr);
  keys_->certificate = NewCertificate("test authority", kDaySeconds, keys_->key, nullptr);
  AddExtension(keys_->certificate, keys_->certificate, NID_basic_constraints, "critical,CA:TRUE");
  CHECK(X509_sign(keys_->certificate, keys_->key, EVP_sha256()) > 0);
  keys_->pem = PemOfCertificate(keys_->certificate);
}

TestAuthority::~TestAuthority() {
  X509_free(keys_->certificate);
  EVP_PKEY_free(keys_->key);
}

const std::string& TestAuthority::pem() const { return keys_->pem; }

TestCertificate TestAuthority::Sign(const CertificateWish& wish) const {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const certificate = NewCertificate(wish.common_name, wish.expired ? kExpired : kDaySeconds,
                                           key, keys_->certificate);
  if (!wish.names.empty()) {
    AddExtension(certificate, keys_->certificate, NID_subject_alt_name, wish.names);
  }
  CHECK(X509_sign(certificate, keys_->key, EVP_sha256()) > 0);
  TestCertificate made;
  made.pem = PemOfCertificate(certificate);
  made.key_pem = PemOf([&](BIO* bio) {
    return PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
  X509_free(certificate);
  EVP_PKEY_free(key);
  return made;
}

}  // namespace tidegate
