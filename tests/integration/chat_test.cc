// Chat over real processes with the demo model, which has no template of its own: as RPC, and as a
// person uses `tidegate chat` through a pipe.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/support/daemons.h"

namespace tidegate::chat_test {

using testing::HasSubstr;

constexpr char kTemplate[] =
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n"
    "{% else %}{{ m.role }}: {{ m.content | trim }}\n{% endif %}{% endfor %}assistant:";

class ChatTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    PackDemoModel(dir_->File("demo.tgpack"));
    WriteFileOrDie(dir_->File("chat.jinja"), kTemplate);
  }
  static void TearDownTestSuite() { delete dir_; }

  void SetUp() override { daemons_.emplace(dir_->File("demo.tgpack")); }
  void Start(std::vector<std::string> store_flags = {}) {
    store_flags.insert(store_flags.end(), {"--memory-budget", kSmallBudget});
    daemons_->Start(store_flags, {"--chat-template", dir_->File("chat.jinja")});
  }

  // `tidegate chat` with these lines as its input, through a shell.
  RunResult RunChat(const std::string& input, const std::string& flags) const {
    WriteFileOrDie(dir_->File("input"), input);
    return RunProgram({"/bin/sh", "-c",
                       BinaryPath("tidegate") + " chat --server " + daemons_->address() +
                           " --temperature 0 --reproducible " + flags + " <" +
                           dir_->File("input")});
  }

  static inline TempDir* dir_ = nullptr;
  std::optional<Daemons> daemons_;
};

StreamResult Ask(const Daemons& daemons, const v1::ChatRequest& request) {
  const auto stub = v1::GenerationService::NewStub(daemons.channel());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDaemonLimit);
  const auto reader = stub->Chat(&context, request);
  StreamResult result;
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
    result.text += event.delta().text();
    if (event.has_finished()) result.finished = event.finished();
  }
  result.status = reader->Finish();
  return result;
}

TEST_F(ChatTest, AnswersAsGenerateDoesWithTheRenderedPrompt) {
  ASSERT_NO_FATAL_FAILURE(Start());
  v1::ChatRequest chat;
  const auto add = [&](const char* role, const char* content) {
    chat.add_messages()->set_role(role);
    chat.mutable_messages(chat.messages_size() - 1)->set_content(content);
  };
  add("system", "A story.");
  add("user", "  Once upon a time </s>  ");
  v1::GenerateRequest plain = StoryRequest(12);
  *chat.mutable_sampling() = plain.sampling();
  *chat.mutable_pruning() = plain.pruning();
  *chat.mutable_stop() = plain.stop();
  chat.set_max_tokens(12);
  plain.set_text("A story.\nuser: Once upon a time </s>\nassistant:");
  const StreamResult answer = Ask(*daemons_, chat);
  const StreamResult wanted = daemons_->Generate(plain);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_TRUE(wanted.status.ok()) << wanted.status.error_message();
  EXPECT_EQ(answer.text, wanted.text);
  EXPECT_EQ(answer.finished->usage().prompt_tokens(), wanted.finished->usage().prompt_tokens());
  EXPECT_GE(daemons_->EngineMetric("tidegate_requests_total", "method=\"Chat\""), 1);
}

TEST_F(ChatTest, ThePipeIsAConversation) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const RunResult once = RunChat("Once upon a time", "-n 8");
  ASSERT_EQ(once.exit_code, 0) << once.err;
  EXPECT_FALSE(once.out.empty());
  EXPECT_EQ(once.err, "");
  // The second turn sees the first; after /reset it does not.
  const RunResult twice = RunChat("Once upon a time\nOnce upon a time\n/exit\nnever\n", "-n 8");
  const RunResult reset = RunChat("Once upon a time\n/reset\nOnce upon a time\n", "-n 8");
  ASSERT_EQ(twice.exit_code, 0) << twice.err;
  EXPECT_EQ(twice.out.rfind(once.out, 0), 0u) << twice.out;
  EXPECT_EQ(reset.out, once.out + once.out);
  const RunResult accounts =
      RunChat("Hi\n/accounts\nHi\n/nothing\n", "--accounts --ignore-eos -n 4");
  EXPECT_THAT(accounts.err, HasSubstr("4 tokens,"));
  EXPECT_THAT(accounts.err, HasSubstr("there is no command /nothing"));
  EXPECT_EQ(accounts.err.find("4 tokens,"), accounts.err.rfind("4 tokens,")) << accounts.err;
}

TEST_F(ChatTest, ASystemPromptIsToldBeforeTheFirstTurn) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const RunResult with = RunChat("Hi\n", "-n 8 --system 'Tom had a red ball.'");
  ASSERT_EQ(with.exit_code, 0) << with.err;
  v1::GenerateRequest plain = StoryRequest(8);
  plain.clear_stop();
  plain.set_text("Tom had a red ball.\nuser: Hi\nassistant:");
  const std::string wanted = daemons_->Generate(plain).text;
  EXPECT_TRUE(with.out == wanted || with.out == wanted + "\n") << with.out << "\n" << wanted;
}

TEST_F(ChatTest, CtrlCStopsTheAnswerAndNotTheProgram) {
  ASSERT_NO_FATAL_FAILURE(Start({"--flash-model", kSlowDevice}));
  // The interrupt ends the first answer; the second is given as if nothing had been.
  WriteFileOrDie(dir_->File("input"), "Once upon a time\nHi\n");
  ChildProcess chat({"/bin/sh", "-c",
                     "exec " + BinaryPath("tidegate") + " chat --server " + daemons_->address() +
                         " --temperature 0 --ignore-eos -n 60 --accounts <" + dir_->File("input")},
                    dir_->File("chat.log"));
  ASSERT_TRUE(WaitUntil([&] { return chat.Output().size() > 10; }, kDaemonLimit));
  chat.Signal(SIGINT);
  EXPECT_EQ(chat.Wait(kDaemonLimit), 0) << chat.Output();
  EXPECT_THAT(chat.Output(), HasSubstr("broken off:"));
  EXPECT_THAT(chat.Output(), HasSubstr("60 tokens,"));
}

TEST_F(ChatTest, WithoutATemplateTheClientAndTheLogNameARemedyEach) {
  ASSERT_NO_FATAL_FAILURE(daemons_->Start());
  const RunResult run = RunChat("Hi\n", "");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("no chat template; use Generate"));
  EXPECT_THAT(daemons_->engine().Output(), HasSubstr("--chat-template FILE"));
  WriteFileOrDie(dir_->File("bad.jinja"), "{{");
  ASSERT_NO_FATAL_FAILURE(daemons_->StopEngine());
  const RunResult bad = RunProgram(
      {BinaryPath("tidegate-engine"), "--store-socket", daemons_->socket(), "--listen",
       "127.0.0.1:0", "--metrics-listen", "off", "--chat-template", dir_->File("bad.jinja")},
      std::chrono::minutes(1));
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.err, HasSubstr("--chat-template: line 1: {{ has no end }}"));
}

}  // namespace tidegate::chat_test
