// Walks the flags of a program that take numbers, as its help names them, and tries values that no
// number has: the test that every one of them goes through base/numbers.h.
#pragma once

#include <regex>
#include <string>
#include <vector>

namespace tidegate {

struct NumberFlag {
  std::string name;
  bool ours = true;  // false: added with CLI11's own conversion
};

// Flags of the text that --help prints, by the name of their value: N, N>=1, 0..1, X, ... are
// base/flags.h's; INT, UINT and FLOAT are CLI11's.
inline std::vector<NumberFlag> NumberFlags(const std::string& help) {
  static const std::regex kFlag(
      R"((--[a-z0-9-]+) (N|N>=[0-9]+|X|-?[0-9.e+]+\.\.[0-9.e+]+|INT|UINT|FLOAT)\b)");
  std::vector<NumberFlag> flags;
  for (auto at = std::sregex_iterator(help.begin(), help.end(), kFlag);
       at != std::sregex_iterator(); ++at) {
    const std::string type = (*at)[2];
    flags.push_back({(*at)[1], type != "INT" && type != "UINT" && type != "FLOAT"});
  }
  return flags;
}

// None of these is a number of any flag of ours.
inline const std::vector<std::string>& NoNumbers() {
  static const std::vector<std::string>& texts =
      *new std::vector<std::string>{"x",
                                    "5x",
                                    " 5",
                                    "5 ",
                                    "0x10",
                                    "+5",
                                    "1,5",
                                    "5;",
                                    "--5",
                                    "1e",
                                    "nan",
                                    "infinity",
                                    "-inf",
                                    "1e400",
                                    "1_000",
                                    "٣",
                                    "5\n",
                                    "{}",
                                    "[5]",
                                    "-99999999999",
                                    "99999999999999999999999",
                                    "-18446744073709551615"};
  return texts;
}

}  // namespace tidegate
