// A folder that shows results to people: index.html with plots and a table, the plots as files for
// use elsewhere, and the numbers as CSV. Stateless; two threads must not write the same folder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "measure/svg_plot.h"

namespace tidegate {

struct ReportPage {
  std::string title;
  std::string about;                                // a paragraph below the title
  std::string command;                              // that made the page
  std::vector<std::pair<std::string, Plot>> plots;  // by name: density -> density.svg
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;  // as many cells as columns
  std::string conclusions;                     // below the table, as it stands
  std::string csv;
};

// Makes the folder if it is not there: before the work that a report is about.
absl::Status MakeReportFolder(const std::string& folder);

// Writes index.html, results.csv and NAME.svg into `folder`; each appears complete or not at all.
absl::Status WriteReportFolder(const std::string& folder, const ReportPage& page);

// A file that appears complete or not at all.
absl::Status WriteTextFile(const std::string& path, const std::string& text);

}  // namespace tidegate
