#include "sft/engine/flat_io.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "sft/base/checked.h"
#include "sft/base/error.h"

namespace sft::engine {
namespace {

constexpr int64_t kReadElements = int64_t{4} << 20;  // what a thread reads at once

struct Part {
  std::string name;             // in the source
  int64_t first = 0, last = 0;  // elements of the tensor
  at::Tensor out;
};

// Files are read as fp32; a buffer of another type is filled by way of one that is.
void read_part(const model::TensorSource& source, const Part& part) {
  if (part.name.empty()) {
    part.out.zero_();
  } else if (part.out.scalar_type() == at::kFloat) {
    source.read(part.name, part.first, part.last, part.out);
  } else {
    const at::Tensor values = at::empty_like(part.out, at::kFloat);
    source.read(part.name, part.first, part.last, values);
    part.out.copy_(values);
  }
}

// Reads elements [begin, end) of the flat buffer into `out`, all threads at once; tensors without a name
// become zero, gaps are left as they are.
void read_interval(const ParameterBlock& block, const std::vector<std::string>& names,
                   const model::TensorSource& source, int64_t begin, int64_t end, const at::Tensor& out) {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto [offset, numel] = block.placement(i);
    const int64_t stop = std::min(end, offset + numel);
    for (int64_t first = std::max(begin, offset); first < stop; first += kReadElements) {
      const int64_t last = std::min(stop, first + kReadElements);
      parts.push_back({names[i], first - offset, last - offset, out.narrow(0, first - begin, last - first)});
    }
  }
  at::parallel_for(0, std::ssize(parts), 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) read_part(source, parts[static_cast<std::size_t>(i)]);
  });
}

}  // namespace

std::string name_in_source(const model::TensorDef& tensor, const model::TensorSource& source,
                           const std::string& name_prefix) {
  const std::vector<std::string> names = tensor.names_in_files(name_prefix);
  const std::optional<std::string> name = model::stored_name(source, names);
  if (!name) {
    base::fail(base::ExitCode::kInvalidData, "tensor {} is missing from the weights (looked for {})",
               tensor.name, names);
  }
  const std::vector<int64_t> shape = source.shape(*name);
  if (shape != tensor.shape) {
    base::fail(base::ExitCode::kInvalidData, "tensor {} has shape {} in the weights, config.json says {}",
               *name, shape, tensor.shape);
  }
  return *name;
}

void check_holds_exactly(const std::vector<ParameterBlock>& blocks, const model::TensorSource& source) {
  std::set<std::string> used;
  for (const ParameterBlock& block : blocks) {
    for (const model::TensorDef& tensor : block.tensors()) used.insert(name_in_source(tensor, source, ""));
  }
  for (const std::string& name : source.names()) {
    if (used.contains(name)) continue;
    base::fail(
        base::ExitCode::kInvalidData,
        "the adapter holds {}, for which this model has no place: without it the model would be another",
        name);
  }
}

void load_flat(const ParameterBlock& block, const at::Tensor& flat, const model::TensorSource& source,
               const std::string& name_prefix, parallel::Communicator& comm, LoadPart part) {
  std::vector<std::string> names;
  for (const model::TensorDef& tensor : block.tensors()) {
    const bool skipped = part == LoadPart::kWithoutAdapters && tensor.adapter != model::AdapterPart::kNone;
    names.push_back(skipped ? "" : name_in_source(tensor, source, name_prefix));
  }

  const bool on_host = flat.device().is_cpu();
  if (comm.size() == 1 && on_host) {
    read_interval(block, names, source, 0, block.size(), flat);
    return;
  }
  const int64_t share = base::ceil_div(block.size(), comm.size());
  const int64_t begin = std::min(block.size(), share * comm.rank());
  const int64_t end = std::min(block.size(), begin + share);
  at::Tensor mine = at::zeros({share}, flat.options().device(c10::kCPU));
  read_interval(block, names, source, begin, end, mine.narrow(0, 0, end - begin));
  const at::Tensor gathered = at::empty({share * comm.size()}, flat.options());
  comm.all_gather(gathered, mine.to(flat.device())).wait();
  flat.copy_(gathered.narrow(0, 0, block.size()));
}

}  // namespace sft::engine
