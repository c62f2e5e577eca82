#include "server/span_exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.grpc.pb.h"
#include "prometheus/metric_family.h"
#include "server/metrics_tracing.h"
#include "server/request_span.h"
#include "tests/support/server_fixture.h"

namespace tidegate::span_exporter_test {

namespace collector = opentelemetry::proto::collector::trace::v1;
namespace otlp = opentelemetry::proto::trace::v1;

constexpr std::chrono::seconds kLimit(60);
constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0";  // and a flag

// A collector as any other: a gRPC server on a free port.
class Collector final : public collector::TraceService::Service {
 public:
  Collector() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~Collector() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Export(grpc::ServerContext* context,
                      const collector::ExportTraceServiceRequest* request,
                      collector::ExportTraceServiceResponse*) override {
    while (hangs && !context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const MutexLock lock(mutex_);
    requests_.push_back(*request);
    return grpc::Status::OK;
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  std::vector<otlp::Span> Spans() const {
    const MutexLock lock(mutex_);
    std::vector<otlp::Span> spans;
    for (const auto& request : requests_) {
      for (const auto& span : request.resource_spans(0).scope_spans(0).spans()) {
        spans.push_back(span);
      }
    }
    return spans;
  }
  collector::ExportTraceServiceRequest First() const {
    const MutexLock lock(mutex_);
    return requests_.at(0);
  }

  std::atomic<bool> hangs = false;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable Mutex mutex_;
  std::vector<collector::ExportTraceServiceRequest> requests_ ABSL_GUARDED_BY(mutex_);
};

// Attributes as text.
template <typename Attributes>
std::map<std::string, std::string> Texts(const Attributes& attributes) {
  std::map<std::string, std::string> texts;
  for (const auto& attribute : attributes) {
    const auto& value = attribute.value();
    texts[attribute.key()] = value.has_int_value()      ? absl::StrCat(value.int_value())
                             : value.has_double_value() ? absl::StrCat(value.double_value())
                             : value.has_array_value()
                                 ? value.array_value().values(0).string_value()
                                 : value.string_value();
  }
  return texts;
}

class TracingTest : public ServerFixture {
 protected:
  void Adjust(ServerOptions& options) override {
    SpanExporterOptions tracing;
    tracing.endpoint = collector_.address();
    tracing.service_name = "stories";
    tracing.sample_ratio = 0;
    tracing.period = std::chrono::milliseconds(1);
    auto tracer = SpanExporter::Start(tracing, stats_);
    ASSERT_TRUE(tracer.ok()) << tracer.status();
    tracer_ = *std::move(tracer);
    options.tracer = tracer_.get();
  }
  void TearDown() override {
    ServerFixture::TearDown();
    server_.reset();
    engine_.reset();  // before the tracer
  }

  // One request of 2 tokens, traced as `traceparent` says, to its end.
  grpc::Status Generate(const std::string& traceparent) {
    grpc::ClientContext context;
    if (!traceparent.empty()) context.AddMetadata("traceparent", traceparent);
    v1::GenerateRequest request;
    request.set_text("a");
    request.set_request_id("r-1");
    const auto reader = generation_->Generate(&context, request);
    GenerationResult result;
    result.reason = FinishReason::kMaxTokens;
    GenerationAccounts& accounts = result.accounts;
    accounts.prompt_tokens = 7;
    accounts.cached_prompt_tokens = 3;
    accounts.generated_tokens = 2;
    accounts.queue_seconds = 1;
    accounts.prefill_seconds = 2;
    accounts.first_token_seconds = 4;
    accounts.decode_seconds = 8;
    accounts.stall_seconds = 0.5;
    accounts.decode_flash_bytes = 4096;
    engine_->End(engine_->WaitForRequest(), result);
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
    }
    return reader->Finish();
  }

  Collector collector_;
  const std::shared_ptr<SpanStats> stats_ = std::make_shared<SpanStats>();
  std::unique_ptr<SpanExporter> tracer_;
};

TEST_F(TracingTest, ARequestIsASpanWithItsStages) {
  ASSERT_TRUE(Generate(absl::StrCat(kParent, "1")).ok());
  ASSERT_TRUE(WaitUntil([&] { return stats_->exported == 1; }, kLimit));
  const std::vector<otlp::Span> spans = collector_.Spans();
  ASSERT_EQ(spans.size(), 4u);
  const otlp::Span& request = spans[0];
  EXPECT_EQ(request.kind(), otlp::Span::SPAN_KIND_SERVER);
  EXPECT_EQ(request.parent_span_id(), "\xb7\xad\x6b\x71\x69\x20\x33\x31");
  EXPECT_EQ(request.flags(), 0x301u);
  auto texts = Texts(request.attributes());
  EXPECT_EQ(request.name(), "text_completion " + texts["gen_ai.response.model"]);
  EXPECT_EQ(texts["gen_ai.response.id"], "r-1");
  EXPECT_EQ(texts["gen_ai.usage.input_tokens"], "7");
  EXPECT_EQ(texts["gen_ai.usage.output_tokens"], "2");
  EXPECT_EQ(texts["gen_ai.response.finish_reasons"], "max_tokens");
  EXPECT_EQ(texts["tidegate.flash.bytes"], "4096");
  EXPECT_EQ(texts["rpc.grpc.status_code"], "0");
  const uint64_t second = 1'000'000'000, start = request.start_time_unix_nano();
  const uint64_t times[][2] = {{0, 1}, {1, 4}, {4, 12}};
  const char* const names[] = {"queue", "prefill", "decode"};
  for (size_t i = 0; i < 3; ++i) {
    const otlp::Span& stage = spans[i + 1];
    EXPECT_EQ(stage.name(), names[i]);
    EXPECT_EQ(stage.trace_id(), request.trace_id());
    EXPECT_EQ(stage.parent_span_id(), request.span_id());
    EXPECT_EQ(stage.span_id().size(), 8u);
    EXPECT_EQ(stage.start_time_unix_nano(), start + times[i][0] * second);
    EXPECT_EQ(stage.end_time_unix_nano(), start + times[i][1] * second);
    EXPECT_NE(stage.span_id(), spans[i].span_id());
  }
  EXPECT_EQ(Texts(spans[3].attributes())["tidegate.flash.stall_seconds"], "0.5");
  const auto resource = Texts(collector_.First().resource_spans(0).resource().attributes());
  EXPECT_EQ(resource.at("service.name"), "stories");
}

TEST_F(TracingTest, TheCallersDecisionIsObeyed) {
  EXPECT_TRUE(Generate(absl::StrCat(kParent, "0")).ok());
  EXPECT_TRUE(Generate("nonsense").ok());
  EXPECT_TRUE(Generate("").ok());
  EXPECT_TRUE(Generate(absl::StrCat(kParent, "1")).ok());
  ASSERT_TRUE(WaitUntil([&] { return stats_->exported >= 1; }, kLimit));
  EXPECT_EQ(collector_.Spans().size(), 4u);
}

TEST_F(TracingTest, ARefusedRequestIsAnErrorWithoutStages) {
  engine_->SetSubmitError(absl::ResourceExhaustedError("full"));
  grpc::ClientContext context;
  context.AddMetadata("traceparent", absl::StrCat(kParent, "1"));
  v1::GenerateRequest request;
  request.set_text("a");
  const auto reader = generation_->Generate(&context, request);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_TRUE(WaitUntil([&] { return stats_->exported == 1; }, kLimit));
  const std::vector<otlp::Span> spans = collector_.Spans();
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans[0].status().code(), otlp::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(Texts(spans[0].attributes())["error.type"], "RESOURCE_EXHAUSTED");
}

TEST_F(TracingTest, ACollectorThatHangsCostsOnlyItsSpans) {
  collector_.hangs = true;
  SpanExporterOptions options;
  options.endpoint = collector_.address();
  options.period = options.export_timeout = std::chrono::milliseconds(1);
  const auto stats = std::make_shared<SpanStats>();
  const auto exporter = SpanExporter::Start(options, stats);
  ASSERT_TRUE(exporter.ok());
  (*exporter)->End(*(*exporter)->Begin("", ""));
  EXPECT_TRUE(WaitUntil([&] { return stats->dropped == 1; }, kLimit));
  collector_.hangs = false;
}

TEST(RequestSpan, ChoicesAreOneRequest) {
  RequestSpan span;
  GenerationResult result;
  result.reason = FinishReason::kMaxTokens;
  result.accounts.prompt_tokens = 7;
  result.accounts.generated_tokens = 2;
  result.accounts.decode_seconds = 3;
  AddChoice(result, span);
  result.reason = FinishReason::kStopString;
  result.accounts.decode_seconds = 5;
  AddChoice(result, span);
  EXPECT_EQ(span.accounts->decode_seconds, 5);
  const otlp::Span request = ToOtlp(span)[0];
  auto texts = Texts(request.attributes());
  EXPECT_EQ(texts["gen_ai.usage.input_tokens"], "7");
  EXPECT_EQ(texts["gen_ai.usage.output_tokens"], "4");
  for (const auto& attribute : request.attributes()) {
    if (attribute.key() != "gen_ai.response.finish_reasons") continue;
    EXPECT_EQ(attribute.value().array_value().values_size(), 2);
    EXPECT_EQ(attribute.value().array_value().values(1).string_value(), "stop_string");
  }
}

TEST(SpanExporter, WithoutACollectorSpansAreDroppedAndCounted) {
  SpanExporterOptions options;
  options.endpoint = "unix:/nonexistent/collector.sock";
  options.period = kLimit;
  options.max_queued = 2;
  const auto stats = std::make_shared<SpanStats>();
  {
    const auto exporter = SpanExporter::Start(options, stats);
    ASSERT_TRUE(exporter.ok());
    const auto first = (*exporter)->Begin("", ""), second = (*exporter)->Begin("", "");
    EXPECT_NE(first->trace_id, second->trace_id);
    EXPECT_EQ(first->trace_id.size(), 16u);
    EXPECT_EQ(first->parent_id, "");
    for (int i = 0; i < 5; ++i) (*exporter)->End(*first);
    EXPECT_EQ(stats->dropped, 3u);
  }
  EXPECT_EQ(stats->dropped, 5u);
  double dropped = 0;
  for (const prometheus::MetricFamily& family : TracingMetrics(stats).Collect()) {
    for (const auto& metric : family.metric) {
      if (metric.label[0].value == "dropped") dropped = metric.counter.value;
    }
  }
  EXPECT_EQ(dropped, 5);
  options.endpoint = "nowhere";
  EXPECT_EQ(SpanExporter::Start(options, stats).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace tidegate::span_exporter_test
