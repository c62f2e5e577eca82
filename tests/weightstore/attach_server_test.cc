#include "weightstore/attach_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "tests/support/raw_engine.h"
#include "tests/support/test_support.h"

namespace tidegate::attach_server_test {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Recorder final : public AttachDelegate {
 public:
  Recorder() : fd_(::eventfd(0, EFD_CLOEXEC)) {}

  absl::StatusOr<AttachGrant> OnAttach(const store::v1::AttachRequest& request) override {
    MutexLock lock(mutex_);
    if (request.engine_name() == "refuse me") return absl::ResourceExhaustedError("full up");
    return AttachGrant{.session = next_++,
                       .region_fd = fd_.get(),
                       .session_fd = fd_.get(),
                       .kick_fd = fd_.get(),
                       .pack_fd = fd_.get(),
                       .region_bytes = 11,
                       .session_bytes = 22};
  }
  void OnDetach(uint32_t session) override {
    MutexLock lock(mutex_);
    detached_.push_back(session);
  }
  void OnRefused() override { ++refused_; }

  std::vector<uint32_t> detached() const {
    MutexLock lock(mutex_);
    return detached_;
  }
  int refused() const { return refused_; }

 private:
  const UniqueFd fd_;
  mutable Mutex mutex_;
  uint32_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint32_t> detached_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int> refused_ = 0;
};

// Says hello without mapping anything: the recorder's descriptors are no memory.
store::v1::AttachResponse Hello(RawEngine& engine, const std::string& name = "x",
                                uint32_t version = kControlVersion) {
  store::v1::AttachRequest request;
  request.set_protocol_version(version);
  request.set_engine_name(name);
  engine.Send(request.SerializeAsString());
  return engine.Receive();
}

// The code that a new engine is answered with. One that is refused before it spoke may not be able
// to.
int AnswerTo(const std::string& path) {
  RawEngine engine(path);
  store::v1::AttachRequest request;
  request.set_protocol_version(kControlVersion);
  engine.TrySend(request.SerializeAsString());
  return engine.Receive().code();
}

class AttachServerTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = folder_.File("attach.sock");
    auto server = AttachServer::Create(path_, {}, &recorder_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Start();
  }
  bool Detached(size_t count) {
    return WaitUntil([&] { return recorder_.detached().size() >= count; },
                     std::chrono::seconds(20));
  }

  TempDir folder_;
  std::string path_;
  Recorder recorder_;
  std::unique_ptr<AttachServer> server_;
};

TEST_F(AttachServerTest, GrantsSizesAndDescriptors) {
  RawEngine engine(path_);
  const auto response = Hello(engine);
  EXPECT_EQ(response.code(), 0);
  EXPECT_EQ(response.region_bytes(), 11u);
  EXPECT_EQ(response.session_bytes(), 22u);
  EXPECT_TRUE(engine.region_fd().valid() && engine.session_fd().valid() &&
              engine.kick_fd().valid() && engine.pack_fd().valid());
  EXPECT_EQ(recorder_.refused(), 0);
}

TEST_F(AttachServerTest, NoticesWhoGoes) {
  {
    RawEngine first(path_);
    Hello(first);
  }
  EXPECT_TRUE(Detached(1));
  EXPECT_THAT(recorder_.detached(), ElementsAre(0));
}

TEST_F(AttachServerTest, PassesTheDelegatesRefusalOnAndHangsUp) {
  RawEngine engine(path_);
  const auto response = Hello(engine, "refuse me");
  EXPECT_EQ(response.code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(response.message(), "full up");
  EXPECT_TRUE(engine.Closed());
  EXPECT_EQ(recorder_.refused(), 1);
  EXPECT_TRUE(recorder_.detached().empty());
}

TEST_F(AttachServerTest, RefusesAnotherControlVersion) {
  RawEngine engine(path_);
  const auto response = Hello(engine, "x", kControlVersion + 1);
  EXPECT_EQ(response.code(), static_cast<int>(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(response.message(), HasSubstr(absl::StrCat("control version ", kControlVersion + 1)));
  EXPECT_TRUE(engine.Closed());
  EXPECT_EQ(recorder_.refused(), 1);
}

TEST_F(AttachServerTest, RefusesMalformedMessages) {
  for (const std::string& bytes : {std::string("\xff\xff\xff"), std::string(4096, 'z')}) {
    RawEngine engine(path_);
    engine.Send(bytes);
    EXPECT_EQ(engine.Receive().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
    EXPECT_TRUE(engine.Closed());
  }
  EXPECT_EQ(recorder_.refused(), 2);
  RawEngine honest(path_);
  EXPECT_EQ(Hello(honest).code(), 0);
}

// Its first 4096 bytes alone would be a good request.
TEST_F(AttachServerTest, RefusesAMessageThatDoesNotFit) {
  store::v1::AttachRequest request;
  request.set_protocol_version(kControlVersion);
  std::string bytes = request.SerializeAsString();
  for (int i = 0; i < 4000; ++i) bytes += {0x78, 0};  // field 15: 0
  RawEngine engine(path_);
  engine.Send(bytes);
  EXPECT_EQ(engine.Receive().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(engine.Closed());
  EXPECT_TRUE(recorder_.detached().empty());
}

TEST_F(AttachServerTest, DropsAPeerThatTalksOutOfTurn) {
  RawEngine engine(path_), other(path_);
  ASSERT_EQ(Hello(engine).code(), 0);
  ASSERT_EQ(Hello(other).code(), 0);
  engine.Send("and another thing");
  EXPECT_TRUE(engine.Closed());
  EXPECT_TRUE(Detached(1));
  EXPECT_THAT(recorder_.detached(), ElementsAre(0));
}

TEST_F(AttachServerTest, SilentPeersAreBoundedAndDoNotStopOthersForGood) {
  std::vector<std::unique_ptr<RawEngine>> silent;
  for (int i = 0; i < 64; ++i) silent.push_back(std::make_unique<RawEngine>(path_));
  RawEngine late(path_);
  EXPECT_EQ(late.Receive().code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(late.Closed());
  silent.pop_back();
  // A place is free, at the latest when the server has noticed.
  const auto served = [&] { return AnswerTo(path_) == 0; };
  EXPECT_TRUE(WaitUntil(served, std::chrono::seconds(20)));
}

TEST_F(AttachServerTest, ASecondServerOnTheSamePathIsRefused) {
  Recorder other;
  const auto second = AttachServer::Create(path_, {}, &other);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  RawEngine engine(path_);
  EXPECT_EQ(Hello(engine).code(), 0) << "the first one still serves";
}

TEST_F(AttachServerTest, StopHangsUpAndRemovesTheSocket) {
  RawEngine engine(path_);
  ASSERT_EQ(Hello(engine).code(), 0);
  server_->Stop();
  EXPECT_TRUE(engine.Closed());
  EXPECT_FALSE(FileExists(path_));
  server_->Stop();
}

TEST(AttachServerCreate, ReplacesADeadSocketButNoOtherFile) {
  TempDir folder;
  Recorder recorder;
  const std::string path = folder.File("s");
  {
    UniqueFd dead(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  EXPECT_TRUE(AttachServer::Create(path, {}, &recorder).ok());

  WriteFileOrDie(path, "precious");
  EXPECT_EQ(AttachServer::Create(path, {}, &recorder).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadFileOrDie(path), "precious");
}

TEST(AttachServerCreate, ChecksThePath) {
  Recorder recorder;
  for (const std::string& path : {std::string(), "/tmp/" + std::string(120, 'x')}) {
    EXPECT_EQ(AttachServer::Create(path, {}, &recorder).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(AttachServer::Create("/no/such/folder/s", {}, &recorder).ok());
}

TEST(AttachServerCreate, TheSocketIsNotForEverybody) {
  TempDir folder;
  Recorder recorder;
  const auto server = AttachServer::Create(folder.File("s"), {}, &recorder);
  ASSERT_TRUE(server.ok());
  struct stat info;
  ASSERT_EQ(::stat(folder.File("s").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0660u);
}

}  // namespace tidegate::attach_server_test
