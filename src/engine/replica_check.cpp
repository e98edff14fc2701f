#include "sft/engine/replica_check.h"

#include <ATen/ops/sum.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <span>
#include <string>

#include "sft/base/error.h"
#include "sft/base/hash.h"

namespace sft::engine {
namespace {

using Texts = std::vector<std::string>;

constexpr std::size_t kDigestLength = 32;

// Equal for equal bits; kDigestLength characters.
std::string digest(const at::Tensor& values) {
  if (values.device().is_cpu()) {
    return base::xxh3_hex(std::span(static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()));
  }
  const at::Tensor bits = values.view(values.element_size() == 1   ? c10::kByte
                                      : values.element_size() == 2 ? c10::kShort
                                      : values.element_size() == 8 ? c10::kLong
                                                                   : c10::kInt);
  return fmt::format("{:032x}", static_cast<uint64_t>(at::sum(bits, c10::kLong).item<int64_t>()));
}

// Ranks whose text is not the one most ranks have; all of them when no text has more than half.
std::vector<int> odd_ones(const Texts& texts) {
  std::map<std::string, std::size_t> votes;
  for (const std::string& text : texts) ++votes[text];
  const auto most = std::max_element(votes.begin(), votes.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const bool decided = 2 * most->second > texts.size();
  std::vector<int> ranks;
  for (std::size_t r = 0; r < texts.size(); ++r) {
    if (!decided || texts[r] != most->first) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

bool all_equal(const Texts& texts) {
  return std::all_of(texts.begin(), texts.end(),
                     [&](const std::string& text) { return text == texts.front(); });
}

}  // namespace

void check_replicas(const std::vector<Replica>& replicas, parallel::Communicator& comm) {
  if (comm.size() == 1) return;
  std::string own;
  for (const Replica& replica : replicas) own += digest(replica.values);
  if (all_equal(comm.all_gather_bytes(base::xxh3_hex(own)))) return;
  const Texts digests = comm.all_gather_bytes(own);
  for (std::size_t i = 0; i < replicas.size(); ++i) {
    Texts of_this;
    for (const std::string& all : digests) of_this.push_back(all.substr(i * kDigestLength, kDigestLength));
    if (all_equal(of_this)) continue;
    throw base::Error(
        base::ExitCode::kDiverged,
        fmt::format("the ranks no longer hold the same weights: {} of rank {} differs. Memory, a processor "
                    "or a network card is likely to be broken there; go on from the last checkpoint, without "
                    "that host",
                    replicas[i].name, fmt::join(odd_ones(of_this), " or ")),
        base::SeenBy::kAllRanks);
  }
  base::fail(base::ExitCode::kDiverged, "the ranks' weights changed while they were compared");
}

}  // namespace sft::engine
