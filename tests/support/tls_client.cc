#include "tests/support/tls_client.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "tests/support/raw_http2.h"

namespace tidegate {
namespace {

constexpr time_t kPatienceSeconds = 20;

absl::Status TlsError() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return absl::UnavailableError(reason == nullptr ? "the connection ended" : reason);
}

X509* CertificateOf(const std::string& pem) {
  BIO* const bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  X509* const certificate = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  CHECK(certificate != nullptr);
  return certificate;
}

SSL_CTX* ContextOf(const TlsClientOptions& options) {
  SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
  if (options.only_tls11) {
    SSL_CTX_set_cipher_list(context, "ALL:@SECLEVEL=0");
    SSL_CTX_set_min_proto_version(context, TLS1_1_VERSION);
    SSL_CTX_set_max_proto_version(context, TLS1_1_VERSION);
  }
  if (!options.ca_pem.empty()) {
    X509* const authority = CertificateOf(options.ca_pem);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority);
    X509_free(authority);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  }
  if (!options.certificate.pem.empty()) {
    X509* const certificate = CertificateOf(options.certificate.pem);
    const std::string& key_pem = options.certificate.key_pem;
    BIO* const bio = BIO_new_mem_buf(key_pem.data(), static_cast<int>(key_pem.size()));
    EVP_PKEY* const key = PEM_read_bio_PrivateKey(bio, nullptr, nullptr, nullptr);
    CHECK(SSL_CTX_use_certificate(context, certificate) == 1);
    CHECK(SSL_CTX_use_PrivateKey(context, key) == 1);
    BIO_free(bio);
    EVP_PKEY_free(key);
    X509_free(certificate);
  }
  if (!options.alpn.empty()) {
    const std::string wire = static_cast<char>(options.alpn.size()) + options.alpn;
    SSL_CTX_set_alpn_protos(context, reinterpret_cast<const unsigned char*>(wire.data()),
                            static_cast<unsigned int>(wire.size()));
  }
  return context;
}

}  // namespace

struct TlsClient::Session {
  ~Session() { SSL_free(ssl); }
  UniqueFd fd;
  SSL* ssl = nullptr;
};

TlsClient::TlsClient(std::unique_ptr<Session> session) : session_(std::move(session)) {}
TlsClient::TlsClient(TlsClient&&) noexcept = default;
TlsClient::~TlsClient() = default;

absl::StatusOr<TlsClient> TlsClient::Connect(uint16_t port, const TlsClientOptions& options) {
  auto session = std::make_unique<Session>();
  session->fd = ConnectLoopback(port);
  signal(SIGPIPE, SIG_IGN);
  if (!session->fd.valid()) return absl::UnavailableError("nobody listens");
  const timeval patience = {kPatienceSeconds, 0};
  setsockopt(session->fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  SSL_CTX* const context = ContextOf(options);
  session->ssl = SSL_new(context);
  SSL_CTX_free(context);
  SSL_set_fd(session->ssl, session->fd.get());
  if (SSL_connect(session->ssl) != 1) return TlsError();
  return TlsClient(std::move(session));
}

absl::Status TlsClient::Send(std::string_view bytes) {
  size_t sent = 0;
  if (SSL_write_ex(session_->ssl, bytes.data(), bytes.size(), &sent) != 1) return TlsError();
  return absl::OkStatus();
}

absl::StatusOr<size_t> TlsClient::Receive(char* to, size_t room) {
  size_t got = 0;
  const int result = SSL_read_ex(session_->ssl, to, room, &got);
  if (result == 1) return got;
  if (SSL_get_error(session_->ssl, result) != SSL_ERROR_ZERO_RETURN) return TlsError();
  return absl::OutOfRangeError("the server said goodbye");
}

absl::StatusOr<std::string> TlsClient::Read(size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t at = 0; at < bytes;) {
    ASSIGN_OR_RETURN(const size_t got, Receive(text.data() + at, bytes - at));
    at += got;
  }
  return text;
}

absl::StatusOr<std::string> TlsClient::ReadToEnd() {
  std::string text;
  char chunk[16 << 10];
  for (;;) {
    const absl::StatusOr<size_t> got = Receive(chunk, sizeof(chunk));
    if (absl::IsOutOfRange(got.status())) return text;
    if (!got.ok()) return got.status();
    text.append(chunk, *got);
  }
}

std::string TlsClient::ServerName() const {
  char name[256] = "";
  X509_NAME_get_text_by_NID(X509_get_subject_name(SSL_get0_peer_certificate(session_->ssl)),
                            NID_commonName, name, sizeof(name));
  return name;
}

}  // namespace tidegate
