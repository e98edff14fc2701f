// Which bytes a checkpoint's tensor files consist of, and which ranks hold them. Every rank computes the same
// answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sft/checkpoint/checkpoint.h"
#include "sft/model/weights.h"
#include "sft/parallel/communicator.h"

namespace sft::checkpoint {

inline constexpr int64_t kElementBytes = 4;  // fp32

// A TensorSlice without its data.
struct SliceInfo {
  std::string name;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;
};

// Ranks that hold exactly the same slices.
struct RankGroup {
  std::vector<int> ranks;
  std::vector<SliceInfo> model, optimizer;
};

// Bytes [begin, end) of a file, and the set of ranks that hold them (index into Layout::holder_sets).
struct Segment {
  int64_t begin = 0, end = 0;
  std::size_t holders = 0;
};

struct TensorFile {
  std::string name;    // relative to the checkpoint
  std::string header;  // the first bytes of the file
  std::vector<model::SafetensorsEntry> entries;
  std::vector<Segment> segments;  // cover the file in order
  int64_t size = 0;
};

struct Layout {
  std::vector<TensorFile> files;
  std::vector<std::vector<int>> holder_sets;  // ascending ranks
  std::string model_index;                    // text of model.safetensors.index.json; empty: none
  int64_t tensor_bytes() const;               // of all files, headers included
};

// Collective. Groups in the order of their lowest ranks.
std::vector<RankGroup> gather_groups(const Contents& contents, parallel::Communicator& comm);

// Local. Error(kInternal) when an element is held by nobody, or ranks disagree on a shape. An adapter is one
// file, whatever its size, because PEFT reads one; it has no index. with_optimizer: an optimizer without tensors
// is a file without tensors, not none.
Layout make_layout(const std::vector<RankGroup>& groups, int64_t max_shard_bytes,
                   ModelPart model_part = ModelPart::kWhole, bool with_optimizer = false);

inline constexpr const char* kModelStem = "model";
inline constexpr const char* kAdapterStem = "adapter_model";
inline constexpr const char* kOptimizerStem = "state/optimizer";

// Local. "<stem>.safetensors", or "<stem>-00001-of-0000n.safetensors" and so on.
std::vector<std::string> shard_names(const std::string& stem, int64_t count);

}  // namespace sft::checkpoint
