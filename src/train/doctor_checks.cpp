#include "doctor_checks.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "median.h"

namespace sft::train {
namespace {

using base::ExitCode;
using parallel::Link;

constexpr std::size_t kTextsShown = 8;

// `code` only where there is something to do.
Finding finding(const char* check, std::vector<std::string> to_do, ExitCode code,
                std::vector<std::string> ok) {
  if (to_do.empty()) return {check, std::move(ok), ExitCode::kDone};
  return {check, std::move(to_do), code};
}

// The text once for each host to which it applies.
class TextsByHost {
 public:
  void add(const std::string& host, const std::string& text) { hosts_[text].insert(host); }
  std::vector<std::string> texts() const {
    std::vector<std::string> result;
    for (const auto& [text, hosts] : hosts_)
      result.push_back(fmt::format("{}: {}", fmt::join(hosts, ", "), text));
    return result;
  }

 private:
  std::map<std::string, std::set<std::string>> hosts_;
};

// What differs between a rank and rank 0.
std::vector<std::string> differences(const AllFacts& ranks, Fingerprints RankFacts::*part,
                                     const std::string& remedy) {
  TextsByHost result;
  const RankFacts& first = ranks.front();
  for (const RankFacts& facts : ranks) {
    std::set<std::string> names;
    for (const RankFacts* side : {&first, &facts}) {
      for (const auto& [name, value] : side->*part) names.insert(name);
    }
    const auto value = [&](const RankFacts& side, const std::string& name) {
      const auto found = (side.*part).find(name);
      return found == (side.*part).end() ? std::string("absent") : found->second;
    };
    for (const std::string& name : names) {
      const std::string here = value(facts, name), there = value(first, name);
      if (here != there)
        result.add(facts.host, fmt::format("{} differs from that of {} ({}; there {}): {}", name, first.host,
                                           here, there, remedy));
    }
  }
  return result.texts();
}

std::string seconds_text(double seconds) {
  return seconds < 1e-3 ? fmt::format("{:.0f} us", seconds * 1e6) : fmt::format("{:.1f} ms", seconds * 1e3);
}

std::string rate_text(double bytes_per_second) {
  return bytes_per_second < 1e9 ? fmt::format("{:.0f} MB/s", bytes_per_second / 1e6)
                                : fmt::format("{:.1f} GB/s", bytes_per_second / 1e9);
}

std::string rank_text(const RankFacts& facts) {
  return fmt::format("rank {} ({})", facts.rank, facts.host);
}

// Pairs of ranks on one host, or those on two.
struct PairOfRanks {
  const RankFacts *first, *second;
  Link link;
};
std::vector<PairOfRanks> pairs_of(const AllFacts& ranks, bool same_host) {
  std::vector<PairOfRanks> pairs;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    for (std::size_t j = i + 1; j < ranks.size(); ++j) {
      if ((ranks[i].host == ranks[j].host) == same_host)
        pairs.push_back({&ranks[i], &ranks[j], ranks[i].links[j]});
    }
  }
  return pairs;
}

double median(const std::vector<PairOfRanks>& pairs, double Link::*figure) {
  std::vector<double> values;
  for (const PairOfRanks& pair : pairs) values.push_back(pair.link.*figure);
  return train::median(std::move(values));
}

// Gigabit Ethernet gives 118 MB/s; what is slower, or much slower than the other pairs, goes another way than
// it should.
void add_slow_pairs(const std::vector<PairOfRanks>& pairs, std::vector<std::string>& to_do) {
  constexpr double kLeastRate = 100e6, kMostLatency = 1e-3, kFactor = 4, kLatencyNobodyMinds = 200e-6;
  const double rate = median(pairs, &Link::bytes_per_second), latency = median(pairs, &Link::latency_seconds);
  for (const PairOfRanks& pair : pairs) {
    const bool low_rate = pair.link.bytes_per_second < std::max(kLeastRate, rate / kFactor);
    const bool late =
        pair.link.latency_seconds > std::min(kMostLatency, std::max(kLatencyNobodyMinds, latency * kFactor));
    if (!low_rate && !late) continue;
    to_do.push_back(
        fmt::format("{} - {}: {}, {} (median {}, {}): name the network to use with --interface, look at its "
                    "cable and its other users",
                    rank_text(*pair.first), rank_text(*pair.second), seconds_text(pair.link.latency_seconds),
                    rate_text(pair.link.bytes_per_second), seconds_text(latency), rate_text(rate)));
  }
}

std::string links_text(const std::vector<PairOfRanks>& pairs, const char* where) {
  const auto by = [](double Link::*figure) {
    return [figure](const PairOfRanks& a, const PairOfRanks& b) { return a.link.*figure < b.link.*figure; };
  };
  const auto [least_late, most_late] =
      std::minmax_element(pairs.begin(), pairs.end(), by(&Link::latency_seconds));
  const auto [slowest, fastest] =
      std::minmax_element(pairs.begin(), pairs.end(), by(&Link::bytes_per_second));
  return fmt::format("{}: {} pair{}, {} to {}, {} to {}", where, pairs.size(), pairs.size() == 1 ? "" : "s",
                     seconds_text(least_late->link.latency_seconds),
                     seconds_text(most_late->link.latency_seconds), rate_text(slowest->link.bytes_per_second),
                     rate_text(fastest->link.bytes_per_second));
}

// Ranks of a host that are joined by common cores, directly or over others.
std::vector<std::vector<const RankFacts*>> core_groups(const AllFacts& ranks) {
  std::vector<std::vector<const RankFacts*>> groups;
  for (const RankFacts& facts : ranks) {
    std::vector<const RankFacts*> joined{&facts};
    std::erase_if(groups, [&](const std::vector<const RankFacts*>& group) {
      const bool common = std::any_of(group.begin(), group.end(), [&](const RankFacts* other) {
        return other->host == facts.host &&
               std::find_first_of(facts.cores.begin(), facts.cores.end(), other->cores.begin(),
                                  other->cores.end()) != facts.cores.end();
      });
      if (common) joined.insert(joined.end(), group.begin(), group.end());
      return common;
    });
    groups.push_back(std::move(joined));
  }
  return groups;
}

// "0-3,8"
std::string cores_text(const std::set<int>& cores) {
  std::vector<std::string> parts;
  for (auto core = cores.begin(); core != cores.end();) {
    int first = *core, last = first;
    while (++core != cores.end() && *core == last + 1) last = *core;
    parts.push_back(first == last ? std::to_string(first) : fmt::format("{}-{}", first, last));
  }
  return fmt::format("core{} {}", cores.size() == 1 ? "" : "s", fmt::join(parts, ","));
}

std::string group_text(const std::vector<const RankFacts*>& group) {
  std::set<int> numbers;
  for (const RankFacts* facts : group) numbers.insert(facts->rank);
  return fmt::format("{}: rank{} {}", group.front()->host, group.size() == 1 ? "" : "s",
                     fmt::join(numbers, ", "));
}

}  // namespace

Finding check_hosts(const AllFacts& ranks) {
  std::map<std::string, int> hosts;
  for (const RankFacts& facts : ranks) ++hosts[facts.host];
  std::vector<std::string> texts;
  for (const auto& [host, count] : hosts) texts.push_back(fmt::format("{} ({})", host, count));
  return {
      "hosts",
      {fmt::format("{} rank{} on {}", ranks.size(), ranks.size() == 1 ? "" : "s", fmt::join(texts, ", "))}};
}

Finding check_program(const AllFacts& ranks) {
  return finding(
      "program", differences(ranks, &RankFacts::program, "install the same version on all hosts"),
      ExitCode::kDiverged,
      {fmt::format("sft-dist and {} libraries the same everywhere", ranks.front().program.size() - 1)});
}

Finding check_inputs(const AllFacts& ranks) {
  TextsByHost unusable;
  ExitCode code = ExitCode::kDiverged;
  for (const RankFacts& facts : ranks) {
    if (facts.open_inputs.code == ExitCode::kDone) continue;
    if (code == ExitCode::kDiverged) code = facts.open_inputs.code;
    unusable.add(facts.host, facts.open_inputs.message);
  }
  std::vector<std::string> to_do = unusable.texts();
  for (std::string& text : differences(ranks, &RankFacts::inputs,
                                       "copy the same file to all hosts, or use a folder that they share"))
    to_do.push_back(std::move(text));
  return finding("model and data", std::move(to_do), code,
                 {fmt::format("{} files the same everywhere", ranks.front().inputs.size())});
}

Finding check_device(const AllFacts& ranks) {
  TextsByHost failed, differing;
  for (const RankFacts& facts : ranks) {
    if (facts.select_device.code != ExitCode::kDone) {
      failed.add(facts.host, facts.select_device.message);
    } else if (!ranks.front().device.empty() && facts.device != ranks.front().device) {
      differing.add(
          facts.host,
          fmt::format(
              "has device {}, {} has {}: look at the driver and at CUDA_VISIBLE_DEVICES there, or set "
              "device = cpu",
              facts.device, ranks.front().host, ranks.front().device));
    }
  }
  std::vector<std::string> to_do = failed.texts();
  for (std::string& text : differing.texts()) to_do.push_back(std::move(text));
  return finding("device", std::move(to_do), ExitCode::kConfig, {ranks.front().device + " on all ranks"});
}

Finding check_cores(const AllFacts& ranks) {
  std::vector<std::string> to_do, ok;
  for (const auto& group : core_groups(ranks)) {
    std::set<int> cores;
    int threads = 0;
    for (const RankFacts* facts : group) {
      cores.insert(facts->cores.begin(), facts->cores.end());
      threads += facts->threads;
    }
    const std::string text = fmt::format("{}: {} thread{} on {}", group_text(group), threads,
                                         threads == 1 ? "" : "s", cores_text(cores));
    if (threads <= static_cast<int>(cores.size())) {
      ok.push_back(text);
    } else {
      to_do.push_back(
          text +
          ": start fewer ranks there, lower threads_per_rank (or OMP_NUM_THREADS), or let the launcher bind "
          "the ranks to cores of their own");
    }
  }
  return finding("cores", std::move(to_do), ExitCode::kConfig, std::move(ok));
}

Finding check_memory(const AllFacts& ranks) {
  TextsByHost failed, ok;
  std::vector<RankMemory> memory;
  for (const RankFacts& facts : ranks) {
    if (facts.reserve_memory.code != ExitCode::kDone) failed.add(facts.host, facts.reserve_memory.message);
    memory.push_back(facts.memory);
  }
  std::vector<std::string> to_do = failed.texts();
  if (const std::string over = over_limit(memory); !over.empty())
    to_do.push_back(fmt::format("{}, before activations: {}", over, kMemoryRemedy));
  for (const MemoryUse& use : uses_of(memory)) {
    ok.add(use.host, fmt::format("{} MB before activations, of {} MB ({})", use.need / 1'000'000,
                                 use.limit / 1'000'000, use.of));
  }
  std::vector<std::string> texts = ok.texts();
  if (texts.empty()) texts.emplace_back("not looked at: on a GPU, or without the model");
  return finding("memory", std::move(to_do), ExitCode::kOutOfMemory, std::move(texts));
}

Finding check_limits(const AllFacts& ranks) {
  constexpr int64_t kFilesOfOne = 256, kFilesPerRank = 4, kSharedBytesPerRank = int64_t{32} << 20;
  const int64_t files = kFilesOfOne + kFilesPerRank * static_cast<int64_t>(ranks.size());
  TextsByHost to_do;
  for (const RankFacts& facts : ranks) {
    const Limits& limits = facts.limits;
    if (limits.open_files < files)
      to_do.add(facts.host,
                fmt::format("{} open files are allowed, {} may be needed: raise it (ulimit -n {})",
                            limits.open_files, files, files));
    if (limits.has_infiniband && !limits.may_lock_all_memory)
      to_do.add(facts.host,
                "has InfiniBand, which needs locked memory without limit: raise it (ulimit -l unlimited)");
    const int64_t shared = kSharedBytesPerRank * facts.ranks_on_host;
    if (facts.ranks_on_host > 1 && limits.shared_memory_bytes < shared)
      to_do.add(
          facts.host,
          fmt::format("{} MB are free in /dev/shm, {} ranks may need {}: make it larger (docker: --shm-size)",
                      limits.shared_memory_bytes / 1'000'000, facts.ranks_on_host, shared / 1'000'000));
  }
  return finding("limits", to_do.texts(), ExitCode::kConfig,
                 {fmt::format("open files (at least {}), locked memory, /dev/shm", files)});
}

Finding check_links(const AllFacts& ranks) {
  std::vector<std::string> to_do, ok;
  for (const bool same_host : {true, false}) {
    const std::vector<PairOfRanks> pairs = pairs_of(ranks, same_host);
    if (pairs.empty()) continue;
    add_slow_pairs(pairs, to_do);
    ok.push_back(links_text(pairs, same_host ? "within hosts" : "between hosts"));
  }
  if (ok.empty()) ok.emplace_back("one rank: none");
  return finding("network", std::move(to_do), ExitCode::kConfig, std::move(ok));
}

Finding check_clocks(const AllFacts& ranks) {
  constexpr double kMostSeconds = 1;
  TextsByHost to_do;
  double most = 0;
  for (const RankFacts& facts : ranks) {
    const double ahead = -facts.links[0].clock_seconds;
    if (std::abs(ahead) > std::abs(most)) most = ahead;
    if (std::abs(ahead) > kMostSeconds)
      to_do.add(
          facts.host,
          fmt::format("its clock is {:.0f} s {} that of {}: set it, and run a time service (chrony, ntp)",
                      std::abs(ahead), ahead > 0 ? "ahead of" : "behind", ranks.front().host));
  }
  return finding("clocks", to_do.texts(), ExitCode::kConfig,
                 {fmt::format("within {:.1f} ms of that of {}", std::abs(most) * 1e3, ranks.front().host)});
}

Finding check_space(const StorageNeed& need, int64_t free_bytes, int64_t num_present) {
  // As saving itself: a tenth more than the files hold.
  const int64_t count =
      std::max<int64_t>(need.num_checkpoints - num_present, need.num_checkpoints > 0 ? 1 : 0);
  const int64_t files = count * need.checkpoint_bytes + need.final_model_bytes;
  const int64_t wanted = files + files / 10;
  const std::string text = fmt::format(
      "{} MB free; {} checkpoint{} of {} MB and a final model to come, {} MB in all", free_bytes / 1'000'000,
      count, count == 1 ? "" : "s", need.checkpoint_bytes / 1'000'000 + 1, wanted / 1'000'000 + 1);
  if (free_bytes >= wanted) return {"free space", {text}};
  return {"free space",
          {text + ": free space, lower save_total_limit, or set save_only_model"},
          ExitCode::kStorage};
}

ExitCode verdict(const std::vector<Finding>& findings) {
  const auto first =
      std::find_if(findings.begin(), findings.end(), [](const Finding& line) { return !line.ok(); });
  return first == findings.end() ? ExitCode::kDone : first->code;
}

std::string table(const std::vector<Finding>& findings) {
  std::string result;
  for (const Finding& line : findings) {
    std::string name = line.check, mark = line.ok() ? "ok" : "TO DO";
    for (std::size_t i = 0; i < std::min(line.texts.size(), kTextsShown); ++i) {
      result += fmt::format("{:<16}{:<7}{}\n", name, mark, line.texts[i]);
      name = mark = "";
    }
    if (line.texts.size() > kTextsShown)
      result += fmt::format("{:<23}and {} more\n", "", line.texts.size() - kTextsShown);
  }
  return result;
}

}  // namespace sft::train
