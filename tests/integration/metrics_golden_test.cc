// Freezes what both processes publish: names, types and label names of every family, in
// tests/testdata/metrics.golden. Dashboards, alerts and docs/metrics.md are tested against that
// file.
//
// After a wanted change, write the file anew and read the difference before committing it:
//   TIDEGATE_UPDATE_GOLDEN=1 ctest --preset release -R integration/metrics_golden_test
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/support/http_get.h"
#include "tests/support/metrics_text.h"
#include "tests/support/test_certificates.h"
#include "tests/support/test_support.h"

namespace tidegate::metrics_golden_test {

constexpr std::chrono::seconds kStartLimit(60);
constexpr char kGolden[] = "tests/testdata/metrics.golden";

// A folder on tmpfs, which the store wants for its region.
class SharedMemoryFolder {
 public:
  SharedMemoryFolder() : path_(absl::StrCat("/dev/shm/tidegate-golden-", getpid())) {
    std::filesystem::create_directory(path_);
  }
  ~SharedMemoryFolder() { std::filesystem::remove_all(path_); }
  SharedMemoryFolder(const SharedMemoryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// The store and the engine as an operator runs them, on private sockets and free ports.
class Service {
 public:
  Service() {
    const RunResult pack = RunProgram({BinaryPath("tidegate"), "pack", DemoModelPath(), "-o",
                                       dir_.File("demo.tgpack"), "--units", "q8"});
    if (pack.exit_code != 0) ADD_FAILURE() << "tidegate pack: " << pack.out << pack.err;
    store_.emplace(
        std::vector<std::string>{BinaryPath("tidegate-store"), "--pack", dir_.File("demo.tgpack"),
                                 "--memory-budget", "7MiB", "--socket", dir_.File("store.sock"),
                                 "--region-dir", region_.path(), "--metrics-listen", "127.0.0.1:0",
                                 "--metrics-port-file", dir_.File("store.port")},
        dir_.File("store.log"));
    const TestCertificate certificate = TestAuthority().Sign();
    WriteFileOrDie(dir_.File("cert.pem"), certificate.pem);
    WriteFileOrDie(dir_.File("key.pem"), certificate.key_pem);
    engine_.emplace(
        std::vector<std::string>{BinaryPath("tidegate-engine"), "--store-socket",
                                 dir_.File("store.sock"), "--listen", "127.0.0.1:0", "--port-file",
                                 dir_.File("grpc.port"), "--metrics-listen", "127.0.0.1:0",
                                 "--metrics-port-file", dir_.File("engine.port"), "--tls-cert",
                                 dir_.File("cert.pem"), "--tls-key", dir_.File("key.pem")},
        dir_.File("engine.log"));
  }

  std::string StorePage() { return Page(*store_, "store.port"); }
  // Of an engine that is attached, so that the families about the model are there.
  std::string EnginePage() {
    std::string page;
    const bool attached = WaitUntil(
        [&] {
          // Written once everything that publishes is there.
          const bool serves = FileExists(dir_.File("grpc.port"));
          page = Page(*engine_, "engine.port");
          const bool attached_now = page.find("tidegate_model_info{") != std::string::npos;
          return page.empty() || (serves && attached_now);
        },
        kStartLimit);
    EXPECT_TRUE(attached) << "the engine never attached\n" << engine_->Output();
    return page;
  }

 private:
  // What /metrics answers; empty, with the test failed, if the process does not come up.
  std::string Page(ChildProcess& process, const std::string& port_file) {
    const std::string path = dir_.File(port_file);
    const auto port = [&] { return FileExists(path) ? ReadFileOrDie(path) : ""; };
    WaitUntil([&] { return !port().empty() || !process.running(); }, kStartLimit);
    if (port().empty()) {
      ADD_FAILURE() << "no " << port_file << "; the process said:\n" << process.Output();
      return "";
    }
    const auto response = HttpGet(static_cast<uint16_t>(std::stoi(port())), "/metrics");
    if (!response.ok() || response->code != 200) {
      ADD_FAILURE() << "GET /metrics: " << response.status() << "\n" << process.Output();
      return "";
    }
    return response->body;
  }

  TempDir dir_;
  SharedMemoryFolder region_;
  std::optional<ChildProcess> store_, engine_;  // the engine goes first
};

std::vector<std::string> Section(const std::string& program, const std::string& page) {
  std::vector<std::string> lines = {absl::StrCat("[", program, "]")};
  for (std::string& line : MetricsShape(page)) lines.push_back(std::move(line));
  return lines;
}

// "- line" for what is only in `golden`, "+ line" for what is only in `found`.
std::string Difference(const std::vector<std::string>& golden,
                       const std::vector<std::string>& found) {
  std::string text;
  for (const std::string& line : golden) {
    if (std::find(found.begin(), found.end(), line) == found.end()) {
      absl::StrAppend(&text, "- ", line, "\n");
    }
  }
  for (const std::string& line : found) {
    if (std::find(golden.begin(), golden.end(), line) == golden.end()) {
      absl::StrAppend(&text, "+ ", line, "\n");
    }
  }
  return text;
}

// The lines of one section of the golden file, its heading included.
std::vector<std::string> GoldenSection(const std::string& program) {
  std::istringstream file(ReadFileOrDie(SourcePath(kGolden)));
  std::vector<std::string> lines;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    if (line[0] == '[') inside = line == absl::StrCat("[", program, "]");
    if (inside) lines.push_back(line);
  }
  return lines;
}

void WriteGolden(const std::vector<std::string>& store, const std::vector<std::string>& engine) {
  WriteFileOrDie(
      SourcePath(kGolden),
      absl::StrCat("# Every metric family: name, type, label names. Written by "
                   "tests/integration/metrics_golden_test.cc (see there).\n",
                   absl::StrJoin(store, "\n"), "\n\n", absl::StrJoin(engine, "\n"), "\n"));
}

TEST(MetricsGoldenTest, NamesTypesAndLabelsAreAsFrozen) {
  Service service;
  const std::string store_page = service.StorePage(), engine_page = service.EnginePage();
  ASSERT_FALSE(HasFailure());
  const std::vector<std::string> store = Section("tidegate-store", store_page);
  const std::vector<std::string> engine = Section("tidegate-engine", engine_page);
  if (std::getenv("TIDEGATE_UPDATE_GOLDEN") != nullptr) {
    WriteGolden(store, engine);
    return;
  }
  const std::string remedy = absl::StrCat(
      "(- frozen in ", kGolden, ", + published now; the head of this test says how to update)");
  EXPECT_EQ(Difference(GoldenSection("tidegate-store"), store), "") << remedy;
  EXPECT_EQ(Difference(GoldenSection("tidegate-engine"), engine), "") << remedy;
}

TEST(MetricsGoldenTest, FamiliesComeOnceAndWithHelp) {
  Service service;
  for (const std::string& page : {service.StorePage(), service.EnginePage()}) {
    std::vector<std::string> names, helped;
    std::istringstream lines(page);
    for (std::string line; std::getline(lines, line);) {
      const std::string name = line.substr(7, line.find(' ', 7) - 7);
      if (line.rfind("# TYPE ", 0) == 0) names.push_back(name);
      if (line.rfind("# HELP ", 0) == 0 && line.size() > 7 + name.size() + 1) {
        helped.push_back(name);
      }
    }
    EXPECT_FALSE(names.empty());
    EXPECT_THAT(names, testing::UnorderedElementsAreArray(helped));
    std::sort(names.begin(), names.end());
    EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
  }
}

}  // namespace tidegate::metrics_golden_test
