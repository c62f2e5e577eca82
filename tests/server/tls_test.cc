// gRPC over TLS, as clients of gRPC see it: whom they trust and what becomes of streams when the
// certificate changes. What TLS itself does: tests/base/tls_test.cc.
#include "base/tls.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "tests/support/server_fixture.h"
#include "tests/support/test_certificates.h"

namespace tidegate::tls_test {

class GrpcTlsTest : public ServerFixture {
 protected:
  void Adjust(ServerOptions& options) override {
    Put(authority_.Sign({.common_name = "first"}));
    WriteFileOrDie(folder_.File("ca.pem"), authority_.pem());
    auto tls = TlsServer::Create({.certificate_file = folder_.File("cert.pem"),
                                  .key_file = folder_.File("key.pem"),
                                  .client_ca_file = asks_ ? folder_.File("ca.pem") : ""});
    ASSERT_TRUE(tls.ok()) << tls.status();
    options.tls = tls_ = *std::move(tls);
  }
  void Put(const TestCertificate& certificate) {
    WriteFileOrDie(folder_.File("cert.pem"), certificate.pem);
    WriteFileOrDie(folder_.File("key.pem"), certificate.key_pem);
  }
  // A connection of its own.
  std::shared_ptr<grpc::Channel> Dial(const std::string& ca_pem, const std::string& name = "",
                                      const TestCertificate& certificate = {}) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (!name.empty()) arguments.SetSslTargetNameOverride(name);
    return grpc::CreateCustomChannel(
        server_->address(), grpc::SslCredentials({ca_pem, certificate.key_pem, certificate.pem}),
        arguments);
  }
  static grpc::Status Ask(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::ListModelsResponse answer;
    return v1::ModelService::NewStub(channel)->ListModels(&context, v1::ListModelsRequest(),
                                                          &answer);
  }
  void ExpectNoCall(const std::shared_ptr<grpc::Channel>& channel) {
    EXPECT_EQ(Ask(channel).error_code(), grpc::StatusCode::UNAVAILABLE);
  }

  bool asks_ = false;  // for certificates of clients
  TempDir folder_;
  TestAuthority authority_;
  std::shared_ptr<TlsServer> tls_;
};

TEST_F(GrpcTlsTest, ClientsThatTrustTheAuthorityAreServed) {
  const grpc::Status status = Ask(Dial(authority_.pem()));
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(GrpcTlsTest, ClientsRefuseStrangersWrongNamesAndWhatHasExpired) {
  ExpectNoCall(Dial(TestAuthority().pem()));
  ExpectNoCall(Dial(authority_.pem(), "other.example"));
  EXPECT_TRUE(Ask(Dial(authority_.pem(), "localhost")).ok());
  Put(authority_.Sign({.expired = true}));
  ASSERT_TRUE(tls_->Reload().ok());
  ExpectNoCall(Dial(authority_.pem()));
}

TEST_F(GrpcTlsTest, AClientInClearTextIsTold) {
  const grpc::Status status =
      Ask(grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcTlsTest, AStreamRunsOnWhileTheCertificateChanges) {
  v1::GenerateRequest request;
  request.set_text("a");
  grpc::ClientContext context;
  const auto stub = v1::GenerationService::NewStub(Dial(authority_.pem()));
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  const TestAuthority next;
  Put(next.Sign());
  ASSERT_TRUE(tls_->Reload().ok());
  EXPECT_TRUE(Ask(Dial(next.pem())).ok());
  ExpectNoCall(Dial(authority_.pem()));
  engine_->Emit(engine_->WaitForRequest(), "still here", {1});
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.delta().text(), "still here");
  context.TryCancel();
}

class GrpcMutualTlsTest : public GrpcTlsTest {
 protected:
  GrpcMutualTlsTest() { asks_ = true; }
};

TEST_F(GrpcMutualTlsTest, ClientsShowACertificateAndAreKnownByIt) {
  ExpectNoCall(Dial(authority_.pem()));
  ExpectNoCall(Dial(authority_.pem(), "", TestAuthority().Sign()));
  const TestCertificate mine = authority_.Sign({.names = "URI:spiffe://prod/batch"});
  v1::GenerateRequest request;
  request.set_text("a");
  grpc::ClientContext context;
  const auto stub = v1::GenerationService::NewStub(Dial(authority_.pem(), "", mine));
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse started;
  ASSERT_TRUE(reader->Read(&started)) << reader->Finish().error_message();
  EXPECT_EQ(engine_->last_request().client, "uri:spiffe://prod/batch");
  context.TryCancel();
}

}  // namespace tidegate::tls_test
