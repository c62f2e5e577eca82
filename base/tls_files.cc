#include "base/tls_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;  // the CAs of all browsers take a fifth of it

// Forward secrecy and authenticated encryption alone, for TLS 1.2. What TLS 1.3 has is all so.
constexpr char kCiphers12[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

template <auto Free>
struct TlsDelete {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using BioPtr = std::unique_ptr<BIO, TlsDelete<BIO_free>>;
using CertificatePtr = std::unique_ptr<X509, TlsDelete<X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, TlsDelete<EVP_PKEY_free>>;

// What OpenSSL says of its last error, and forgets all.
std::string TakeTlsError() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return reason == nullptr ? "unknown reason" : reason;
}

absl::Status FileError(const char* flag, const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", Quoted(path), ": ", what));
}

absl::StatusOr<std::string> ReadPem(const char* flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxPemBytes);
  if (!text.ok()) return Annotate(text.status(), flag);
  return text;
}

BioPtr MemoryBio(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

absl::StatusOr<std::vector<CertificatePtr>> ReadCertificates(const char* flag,
                                                             const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadPem(flag, path));
  const BioPtr bio = MemoryBio(text);
  std::vector<CertificatePtr> certificates;
  ERR_clear_error();
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(certificate);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = TakeTlsError();
  if (!at_end) return FileError(flag, path, absl::StrCat("a certificate is broken: ", reason));
  if (certificates.empty()) {
    return FileError(flag, path,
                     "no certificate in it: PEM is wanted, -----BEGIN CERTIFICATE-----");
  }
  return certificates;
}

// OpenSSL would ask the terminal.
int RefusePassphrase(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

absl::StatusOr<KeyPtr> ReadKey(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadPem("--tls-key", path));
  const BioPtr bio = MemoryBio(text);
  bool asked = false;
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, RefusePassphrase, &asked));
  const std::string reason = TakeTlsError();
  if (key != nullptr) return key;
  if (asked) {
    return FileError("--tls-key", path,
                     "it has a passphrase; `openssl pkey -in OLD -out NEW` writes it without one");
  }
  return FileError("--tls-key", path,
                   absl::StrCat("no private key in it (PEM is wanted): ", reason));
}

absl::Status UseCertificate(const TlsOptions& options, TlsContext& context) {
  ASSIGN_OR_RETURN(std::vector<CertificatePtr> chain,
                   ReadCertificates("--tls-cert", options.certificate_file));
  ASSIGN_OR_RETURN(const KeyPtr key, ReadKey(options.key_file));
  SSL_CTX* const ssl = context.ssl.get();
  if (SSL_CTX_use_certificate(ssl, chain.front().get()) != 1) {
    return FileError("--tls-cert", options.certificate_file, TakeTlsError());
  }
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(ssl, chain[i].get()) != 1) {
      return FileError("--tls-cert", options.certificate_file, TakeTlsError());
    }
  }
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    ERR_clear_error();
    return FileError("--tls-key", options.key_file,
                     absl::StrCat("it is not the key of the first certificate in ",
                                  Quoted(options.certificate_file), " (--tls-cert)"));
  }
  if (SSL_CTX_use_PrivateKey(ssl, key.get()) != 1) {
    return FileError("--tls-key", options.key_file, TakeTlsError());
  }
  tm expiry = {};
  ASN1_TIME_to_tm(X509_get0_notAfter(chain.front().get()), &expiry);
  context.expiry = timegm(&expiry);
  char subject[256] = "";
  X509_NAME_oneline(X509_get_subject_name(chain.front().get()), subject, sizeof(subject));
  context.subject = Printable(subject);
  return absl::OkStatus();
}

absl::Status DemandClientCertificates(const std::string& path, SSL_CTX* ssl) {
  ASSIGN_OR_RETURN(const std::vector<CertificatePtr> authorities,
                   ReadCertificates("--tls-client-ca", path));
  X509_STORE* const store = SSL_CTX_get_cert_store(ssl);
  for (const CertificatePtr& authority : authorities) {
    if (X509_STORE_add_cert(store, authority.get()) != 1 ||
        SSL_CTX_add_client_CA(ssl, authority.get()) != 1) {
      return FileError("--tls-client-ca", path, TakeTlsError());
    }
  }
  SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return absl::OkStatus();
}

std::shared_ptr<SSL_CTX> NewContext(TlsVersion min_version) {
  std::shared_ptr<SSL_CTX> ssl(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  if (ssl == nullptr) return nullptr;
  const int version = min_version == TlsVersion::k13 ? TLS1_3_VERSION : TLS1_2_VERSION;
  if (SSL_CTX_set_min_proto_version(ssl.get(), version) != 1 ||
      SSL_CTX_set_cipher_list(ssl.get(), kCiphers12) != 1) {
    return nullptr;
  }
  // No session is resumed: each connection shows its certificate, and none outlives a reload.
  SSL_CTX_set_session_cache_mode(ssl.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(ssl.get(), 0);
  SSL_CTX_set_options(ssl.get(), SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                     SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_mode(ssl.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
  // One record a call: a peer that sends records without data does not keep the thread.
  SSL_CTX_clear_mode(ssl.get(), SSL_MODE_AUTO_RETRY);
  return ssl;
}

}  // namespace

absl::StatusOr<TlsContext> LoadTlsContext(const TlsOptions& options) {
  TlsContext context;
  context.ssl = NewContext(options.min_version);
  if (context.ssl == nullptr) {
    return absl::InternalError(absl::StrCat("OpenSSL cannot start: ", TakeTlsError()));
  }
  RETURN_IF_ERROR(UseCertificate(options, context));
  if (!options.client_ca_file.empty()) {
    RETURN_IF_ERROR(DemandClientCertificates(options.client_ca_file, context.ssl.get()));
  }
  return context;
}

std::string FingerprintOfFiles(const TlsOptions& options) {
  std::string fingerprint;
  for (const std::string* path :
       {&options.certificate_file, &options.key_file, &options.client_ca_file}) {
    struct stat info = {};
    if (path->empty() || stat(path->c_str(), &info) != 0) {
      absl::StrAppend(&fingerprint, "-;");
      continue;
    }
    absl::StrAppend(&fingerprint, info.st_dev, ":", info.st_ino, ":", info.st_size, ":",
                    info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, ":", info.st_ctim.tv_sec, ".",
                    info.st_ctim.tv_nsec, ";");
  }
  return fingerprint;
}

}  // namespace tidegate
