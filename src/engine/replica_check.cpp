#include "sft/engine/replica_check.h"

#include <ATen/ops/sum.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "sft/base/error.h"
#include "sft/base/hash.h"

namespace sft::engine {
namespace {

using Texts = std::vector<std::string>;

// Equal for equal bits. flat: 1-D.
std::string digest(const at::Tensor& flat) {
  if (flat.device().is_cpu()) {
    return base::xxh3_hex(std::span(static_cast<const std::byte*>(flat.const_data_ptr()), flat.nbytes()));
  }
  const at::Tensor bits = flat.view(flat.element_size() == 2   ? c10::kShort
                                    : flat.element_size() == 8 ? c10::kLong
                                                               : c10::kInt);
  return std::to_string(at::sum(bits, c10::kLong).item<int64_t>());
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

// The first tensor of the block that differs, and where it does; the gaps between tensors have no name.
[[noreturn]] void name_difference(const ParameterBlock& block, parallel::Communicator& comm) {
  for (std::size_t t = 0; t < block.tensors().size(); ++t) {
    const auto [offset, numel] = block.placement(t);
    const Texts digests = comm.all_gather_bytes(digest(block.parameters().narrow(0, offset, numel)));
    if (all_equal(digests)) continue;
    throw base::Error(
        base::ExitCode::kDiverged,
        fmt::format("the ranks no longer hold the same weights: {} of rank {} differs. Memory, a processor "
                    "or a network "
                    "card is likely to be broken there; go on from the last checkpoint, without that host",
                    block.tensors()[t].name, fmt::join(odd_ones(digests), " or ")),
        base::SeenBy::kAllRanks);
  }
  throw base::Error(base::ExitCode::kDiverged, "the ranks no longer hold the same weights (between tensors)",
                    base::SeenBy::kAllRanks);
}

}  // namespace

void check_replicas(const std::vector<ParameterBlock>& blocks, parallel::Communicator& comm) {
  if (comm.size() == 1) return;
  std::string own;
  for (const ParameterBlock& block : blocks) own += digest(block.parameters()) + "\n";
  if (all_equal(comm.all_gather_bytes(own))) return;
  for (const ParameterBlock& block : blocks) {
    if (!all_equal(comm.all_gather_bytes(digest(block.parameters())))) name_difference(block, comm);
  }
  base::fail(base::ExitCode::kDiverged, "the ranks' weights changed while they were compared");
}

}  // namespace sft::engine
