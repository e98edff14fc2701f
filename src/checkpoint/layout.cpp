#include "checkpoint/layout.h"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/base/hash.h"

namespace sft::checkpoint {
namespace {

using base::ExitCode;
using base::fail;
using nlohmann::json;


std::vector<SliceInfo> describe(const std::vector<TensorSlice>& slices) {
  std::vector<SliceInfo> result;
  for (const TensorSlice& slice : slices) result.push_back({slice.name, slice.shape, slice.begin, slice.end});
  return result;
}

json to_json(const std::vector<SliceInfo>& slices) {
  json list = json::array();
  for (const SliceInfo& slice : slices) list.push_back({slice.name, slice.shape, slice.begin, slice.end});
  return list;
}

std::vector<SliceInfo> from_json(const json& list) {
  std::vector<SliceInfo> result;
  for (const json& item : list) {
    result.push_back({item[0].get<std::string>(), item[1].get<std::vector<int64_t>>(), item[2].get<int64_t>(),
                      item[3].get<int64_t>()});
  }
  return result;
}

struct Holding {
  int64_t begin = 0, end = 0;  // elements
  std::size_t group = 0;
};

struct LogicalTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t numel = 0;
  std::vector<Holding> holdings;
};

int64_t numel_of(const SliceInfo& slice) {
  std::optional<int64_t> numel = 1;
  for (const int64_t extent : slice.shape) {
    numel = extent < 0 ? std::nullopt : base::checked_mul(*numel, extent);
    if (!numel) fail(ExitCode::kInternal, "checkpoint tensor '{}' has an impossible shape", slice.name);
  }
  return *numel;
}

// The tensors of all groups, in the order in which the ranks, from 0 up, name them first.
std::vector<LogicalTensor> logical_tensors(const std::vector<RankGroup>& groups,
                                           std::vector<SliceInfo> RankGroup::*part) {
  std::vector<LogicalTensor> tensors;
  std::map<std::string, std::size_t> index_of;
  for (std::size_t group = 0; group < groups.size(); ++group) {
    for (const SliceInfo& slice : groups[group].*part) {
      const auto [found, added] = index_of.try_emplace(slice.name, tensors.size());
      if (added) tensors.push_back({slice.name, slice.shape, numel_of(slice), {}});
      LogicalTensor& tensor = tensors[found->second];
      if (tensor.shape != slice.shape) {
        fail(ExitCode::kInternal, "rank {} gives checkpoint tensor '{}' another shape than lower ranks do",
             groups[group].ranks[0], slice.name);
      }
      if (slice.begin < 0 || slice.end < slice.begin || slice.end > tensor.numel) {
        fail(ExitCode::kInternal, "rank {} holds elements {} to {} of checkpoint tensor '{}', which has {}",
             groups[group].ranks[0], slice.begin, slice.end, slice.name, tensor.numel);
      }
      if (slice.end > slice.begin) tensor.holdings.push_back({slice.begin, slice.end, group});
    }
  }
  return tensors;
}

class LayoutBuilder {
 public:
  explicit LayoutBuilder(const std::vector<RankGroup>& groups) : groups_(groups) {
    std::vector<std::size_t> all(groups.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    all_ranks_ = intern(all);
  }

  void add_file(const std::string& name, const std::map<std::string, std::string>& metadata,
                std::span<const LogicalTensor> tensors) {
    TensorFile file;
    file.name = name;
    for (const LogicalTensor& tensor : tensors)
      file.entries.push_back({tensor.name, "F32", tensor.shape, 0, 0});
    file.header = model::make_safetensors_header(file.entries, metadata);
    append(file, std::ssize(file.header), all_ranks_);
    for (const LogicalTensor& tensor : tensors) add_tensor(file, tensor);
    layout_.files.push_back(std::move(file));
  }

  Layout take(std::string model_index) {
    layout_.model_index = std::move(model_index);
    return std::move(layout_);
  }

 private:
  static void append(TensorFile& file, int64_t bytes, std::size_t holders) {
    const int64_t begin = std::exchange(file.size, file.size + bytes);
    if (!file.segments.empty() && file.segments.back().holders == holders) {
      file.segments.back().end = file.size;
    } else {
      file.segments.push_back({begin, file.size, holders});
    }
  }

  // Cuts the tensor wherever a holding begins or ends.
  void add_tensor(TensorFile& file, const LogicalTensor& tensor) {
    std::set<int64_t> cuts = {0, tensor.numel};
    for (const Holding& holding : tensor.holdings) cuts.insert({holding.begin, holding.end});
    for (auto cut = cuts.begin(); std::next(cut) != cuts.end(); ++cut) {
      const int64_t begin = *cut, end = *std::next(cut);
      std::vector<std::size_t> holding_groups;
      for (const Holding& holding : tensor.holdings) {
        if (holding.begin <= begin && holding.end >= end) holding_groups.push_back(holding.group);
      }
      if (holding_groups.empty()) {
        fail(ExitCode::kInternal, "no rank holds elements {} to {} of checkpoint tensor '{}'", begin, end,
             tensor.name);
      }
      append(file, (end - begin) * kElementBytes, intern(holding_groups));
    }
  }

  std::size_t intern(const std::vector<std::size_t>& group_set) {
    const auto [found, added] = known_sets_.try_emplace(group_set, layout_.holder_sets.size());
    if (added) {
      std::vector<int> ranks;
      for (const std::size_t group : group_set) {
        ranks.insert(ranks.end(), groups_[group].ranks.begin(), groups_[group].ranks.end());
      }
      std::ranges::sort(ranks);
      const auto twice = std::ranges::adjacent_find(ranks);
      if (twice != ranks.end())
        fail(ExitCode::kInternal, "rank {} holds a part of a checkpoint tensor twice", *twice);
      layout_.holder_sets.push_back(std::move(ranks));
    }
    return found->second;
  }

  const std::vector<RankGroup>& groups_;
  Layout layout_;
  std::map<std::vector<std::size_t>, std::size_t> known_sets_;
  std::size_t all_ranks_ = 0;
};

using Shards = std::vector<std::vector<LogicalTensor>>;

// As huggingface_hub cuts a state dict: in order; a new shard where the next tensor would pass the limit; a
// tensor above it in a shard of its own.
Shards cut_into_shards(const std::vector<LogicalTensor>& tensors, int64_t max_bytes) {
  Shards shards;
  std::vector<LogicalTensor> current;
  int64_t current_bytes = 0;
  for (const LogicalTensor& tensor : tensors) {
    const int64_t bytes = tensor.numel * kElementBytes;
    if (bytes > max_bytes) {
      shards.push_back({tensor});
      continue;
    }
    if (current_bytes + bytes > max_bytes) {
      shards.push_back(std::exchange(current, {}));
      current_bytes = 0;
    }
    current.push_back(tensor);
    current_bytes += bytes;
  }
  if (!current.empty()) shards.push_back(std::move(current));
  return shards;
}

void add_files(LayoutBuilder& builder, const std::string& stem,
               const std::map<std::string, std::string>& metadata, const Shards& shards) {
  const std::vector<std::string> names = shard_names(stem, std::ssize(shards));
  for (std::size_t i = 0; i < shards.size(); ++i) builder.add_file(names[i], metadata, shards[i]);
}

std::string index_text(const Shards& shards) {
  const std::vector<std::string> names = shard_names("model", std::ssize(shards));
  json weight_map = json::object();
  int64_t numel = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const LogicalTensor& tensor : shards[i]) {
      weight_map[tensor.name] = names[i];
      numel += tensor.numel;
    }
  }
  const json metadata = {{"total_parameters", numel}, {"total_size", numel * kElementBytes}};
  return json({{"metadata", metadata}, {"weight_map", weight_map}}).dump(2) + "\n";
}

}  // namespace

int64_t Layout::tensor_bytes() const {
  int64_t total = 0;
  for (const TensorFile& file : files) total += file.size;
  return total;
}

std::vector<std::string> shard_names(const std::string& stem, int64_t count) {
  if (count == 1) return {stem + ".safetensors"};
  std::vector<std::string> names;
  for (int64_t i = 1; i <= count; ++i)
    names.push_back(fmt::format("{}-{:05}-of-{:05}.safetensors", stem, i, count));
  return names;
}

std::vector<RankGroup> gather_groups(const Contents& contents, parallel::Communicator& comm) {
  std::vector<SliceInfo> model = describe(contents.model), optimizer = describe(contents.optimizer);
  const std::string mine = json::array({to_json(model), to_json(optimizer)}).dump();
  const std::string my_hash = base::xxh3_hex(mine);
  const std::vector<std::string> hashes = comm.all_gather_bytes(my_hash);
  if (std::ranges::all_of(hashes, [&](const std::string& hash) { return hash == hashes[0]; })) {
    std::vector<int> ranks(hashes.size());
    std::iota(ranks.begin(), ranks.end(), 0);
    return {{std::move(ranks), std::move(model), std::move(optimizer)}};
  }
  // The first rank of each kind describes it to all.
  const auto first = std::ranges::find(hashes, my_hash) - hashes.begin();
  const std::vector<std::string> texts = comm.all_gather_bytes(first == comm.rank() ? mine : std::string());
  std::vector<RankGroup> groups;
  std::map<std::string, std::size_t> group_of;
  for (std::size_t rank = 0; rank < hashes.size(); ++rank) {
    const auto [found, added] = group_of.try_emplace(hashes[rank], groups.size());
    if (added) {
      const json both = json::parse(texts[rank]);
      groups.push_back({{}, from_json(both[0]), from_json(both[1])});
    }
    groups[found->second].ranks.push_back(static_cast<int>(rank));
  }
  return groups;
}

Layout make_layout(const std::vector<RankGroup>& groups, int64_t max_shard_bytes, ModelPart model_part,
                   bool with_optimizer) {
  const bool adapter = model_part == ModelPart::kAdapter;
  const Shards model = cut_into_shards(logical_tensors(groups, &RankGroup::model),
                                       adapter ? std::numeric_limits<int64_t>::max() : max_shard_bytes);
  Shards optimizer = cut_into_shards(logical_tensors(groups, &RankGroup::optimizer), max_shard_bytes);
  if (optimizer.empty() && with_optimizer) optimizer.emplace_back();
  if (model.empty()) fail(ExitCode::kInternal, "a checkpoint without model tensors");
  LayoutBuilder builder(groups);
  add_files(builder, adapter ? kAdapterStem : kModelStem, {{"format", "pt"}}, model);
  add_files(builder, kOptimizerStem, {}, optimizer);
  return builder.take(adapter ? "" : index_text(model));
}

}  // namespace sft::checkpoint
