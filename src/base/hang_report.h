// What a rank writes when a section took too long, and what all of these together say.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace sft::base {

struct HangReport {
  int rank = 0;
  std::string host, section, phase;
  double seconds = 0, limit = 0;  // in the section; its limit
  int64_t step = 0, micro_step = 0, block = 0;
  struct Collective {
    std::string name;
    int64_t sequence = 0;
    bool inside = false;
  };
  Collective control, data;
  std::string stacks;
};

std::string to_json(const HangReport& report);
// Empty when the text is no report.
std::optional<HangReport> hang_report_from_json(const std::string& text);

// One message that names the rank that is behind, what it was doing, and what the others wait for.
// reports: in order of rank, empty where a rank wrote none; hosts: one per rank.
std::string hang_verdict(const std::vector<std::optional<HangReport>>& reports,
                         const std::vector<std::string>& hosts);

}  // namespace sft::base
