// The main function of every test program. A program holds the tests of one folder:
//
//   engine_tests --file=sampler_test [GoogleTest's flags]
//
// runs those of tests/engine/sampler_test.cc, in a process of their own; ctest does it for each
// file.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <string_view>

namespace tidegate {
namespace {

constexpr std::string_view kFileFlag = "--file=";

// Takes --file=NAME out of the arguments; "" if it is not there.
std::string TakeFileFlag(int& argc, char** argv) {
  std::string name;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with(kFileFlag)) {
      name = argument.substr(kFileFlag.size());
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  argv[argc] = nullptr;
  return name;
}

bool IsOf(const testing::TestSuite& suite, const std::string& file) {
  if (suite.total_test_count() == 0) return false;
  const std::string_view path = suite.GetTestInfo(0)->file();
  return path.ends_with("/" + file + ".cc");
}

// Excludes the suites of other files, whatever else the filter says. False if none is left.
bool SelectFile(const std::string& file) {
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  std::string filter = GTEST_FLAG_GET(filter);
  filter += filter.find('-') == std::string::npos ? "-" : ":";
  bool found = false;
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    if (IsOf(suite, file)) {
      found = true;
    } else {
      filter += std::string(suite.name()) + ".*:";
    }
  }
  GTEST_FLAG_SET(filter, filter);
  return found;
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  const std::string file = tidegate::TakeFileFlag(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  if (!file.empty() && !tidegate::SelectFile(file)) {
    std::fprintf(stderr, "no test of this program is in %s.cc; --gtest_list_tests lists them\n",
                 file.c_str());
    return 1;
  }
  return RUN_ALL_TESTS();
}
