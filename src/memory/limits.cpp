#include "sft/memory/limits.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "sft/base/control_group.h"
#include "sft/base/system_file.h"

namespace sft::memory {
namespace {

// Version 1 says "none" by a number of about 2^63.
constexpr int64_t kNoLimit = int64_t{1} << 60;

// Nothing: no such file, or "max".
std::optional<int64_t> number_in(const std::filesystem::path& file) {
  const std::string text = base::read_system_file(file);
  int64_t bytes = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), bytes);
  return parsed.ec != std::errc() || bytes >= kNoLimit ? std::nullopt : std::optional(bytes);
}

}  // namespace

std::optional<int64_t> group_limit(const std::filesystem::path& folder, int64_t swap) {
  if (const auto memory = number_in(folder / "memory.max"))
    return *memory + std::min(swap, number_in(folder / "memory.swap.max").value_or(swap));
  if (const auto memory = number_in(folder / "memory.limit_in_bytes"))
    return std::min(*memory + swap,
                    number_in(folder / "memory.memsw.limit_in_bytes").value_or(*memory + swap));
  return std::nullopt;
}

int64_t meminfo_bytes(const std::string& meminfo, std::string_view name) {
  std::istringstream in(meminfo);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name) || line.substr(name.size(), 1) != ":") continue;
    return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return 0;
}

std::vector<Limit> limits() {
  const std::string meminfo = base::read_system_file("/proc/meminfo");
  const int64_t swap = meminfo_bytes(meminfo, "SwapTotal");
  std::vector<Limit> found;
  for (const std::filesystem::path& folder : base::control_groups("memory")) {
    if (const auto bytes = group_limit(folder, swap))
      found.push_back({"control group " + folder.string(), *bytes});
  }
  if (const int64_t total = meminfo_bytes(meminfo, "MemTotal"); total > 0)
    found.push_back({"the machine", total + swap});
  return found;
}

}  // namespace sft::memory
