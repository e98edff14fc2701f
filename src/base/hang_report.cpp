#include "hang_report.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace sft::base {
namespace {

using nlohmann::json;
using Reports = std::vector<std::optional<HangReport>>;

json collective_to_json(const HangReport::Collective& collective) {
  return {{"name", collective.name}, {"sequence", collective.sequence}, {"inside", collective.inside}};
}

HangReport::Collective collective_from_json(const json& value) {
  return {value.at("name"), value.at("sequence"), value.at("inside")};
}

// Collectives entered: ranks make the same ones in the same order, so fewer means behind.
int64_t progress(const HangReport& report) {
  return report.control.sequence + report.data.sequence;
}

std::string waiting_in(const HangReport& report) {
  const HangReport::Collective& inside = report.data.inside ? report.data : report.control;
  if (!inside.inside) return "outside of any collective";
  return fmt::format("inside {} no. {}", inside.name, inside.sequence);
}

std::string position(const HangReport& report) {
  return fmt::format("section {}, phase {}, step {}, micro-step {}, block {}, {}, for {:.0f} s",
                     report.section, report.phase, report.step, report.micro_step, report.block,
                     waiting_in(report), report.seconds);
}

std::string names(const std::vector<int>& ranks, const std::vector<std::string>& hosts) {
  std::vector<std::string> texts;
  for (const int rank : ranks)
    texts.push_back(fmt::format("{} ({})", rank, hosts[static_cast<std::size_t>(rank)]));
  return fmt::format("rank{} {}", ranks.size() > 1 ? "s" : "", fmt::join(texts, ", "));
}

}  // namespace

std::string to_json(const HangReport& report) {
  const json value{{"rank", report.rank},
                   {"host", report.host},
                   {"section", report.section},
                   {"phase", report.phase},
                   {"seconds", report.seconds},
                   {"limit", report.limit},
                   {"step", report.step},
                   {"micro_step", report.micro_step},
                   {"block", report.block},
                   {"control", collective_to_json(report.control)},
                   {"data", collective_to_json(report.data)},
                   {"stacks", report.stacks}};
  return value.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::optional<HangReport> hang_report_from_json(const std::string& text) {
  try {
    const json value = json::parse(text);
    HangReport report;
    report.rank = value.at("rank");
    report.host = value.at("host");
    report.section = value.at("section");
    report.phase = value.at("phase");
    report.seconds = value.at("seconds");
    report.limit = value.at("limit");
    report.step = value.at("step");
    report.micro_step = value.at("micro_step");
    report.block = value.at("block");
    report.control = collective_from_json(value.at("control"));
    report.data = collective_from_json(value.at("data"));
    report.stacks = value.at("stacks");
    return report;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

std::string hang_verdict(const Reports& reports, const std::vector<std::string>& hosts) {
  std::vector<int> silent, behind, waiting;
  int64_t least = 0, most = 0;
  bool any = false;
  for (const auto& report : reports) {
    if (!report) continue;
    least = any ? std::min(least, progress(*report)) : progress(*report);
    most = any ? std::max(most, progress(*report)) : progress(*report);
    any = true;
  }
  for (std::size_t r = 0; r < reports.size(); ++r) {
    const int rank = static_cast<int>(r);
    if (!reports[r]) {
      silent.push_back(rank);
    } else if (least < most && progress(*reports[r]) == least) {
      behind.push_back(rank);
    } else {
      waiting.push_back(rank);
    }
  }

  const auto first = [&](const std::vector<int>& ranks) -> const HangReport& {
    return *reports[static_cast<std::size_t>(ranks.front())];
  };
  if (!silent.empty()) {
    const std::string others = waiting.empty() ? names(behind, hosts) : names(waiting, hosts);
    const HangReport& other = first(waiting.empty() ? behind : waiting);
    return fmt::format("{} did not report: stopped, dead, or on a host that is lost. {} waited: {}",
                       names(silent, hosts), others, position(other));
  }
  if (!behind.empty()) {
    return fmt::format("{} {} behind: {}. {} waited: {}", names(behind, hosts),
                       behind.size() > 1 ? "are" : "is", position(first(behind)), names(waiting, hosts),
                       position(first(waiting)));
  }
  if (waiting.size() == 1)
    return fmt::format("{} does not come on: {}", names(waiting, hosts), position(first(waiting)));
  return fmt::format(
      "all ranks are at the same place, so it is what lies between them (network, shared storage): {}",
      position(first(waiting)));
}

}  // namespace sft::base
