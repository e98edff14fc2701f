// Between flat block buffers and named tensors in files.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "sft/engine/parameter_block.h"
#include "sft/model/weights.h"
#include "sft/parallel/communicator.h"

namespace sft::engine {

// Local. The name under which the source holds the tensor: name_prefix + its name, or one of its aliases.
// Error(kInvalidData) naming a tensor that is missing or has another shape than the model's.
std::string name_in_source(const model::TensorDef& tensor, const model::TensorSource& source,
                           const std::string& name_prefix);

// Local. All that the blocks train is in the source, and nothing else is: an adapter's file. Errors as name_in_source;
// Error(kInvalidData) naming a tensor for which the model has no place.
void check_holds_exactly(const std::vector<ParameterBlock>& blocks, const model::TensorSource& source);

enum class LoadPart { kAll, kWithoutAdapters };

// Collective. Fills `flat` (as long as the block's buffers; fp32, or bf16 where the block is) from tensors called
// name_prefix + tensor name (or one of its aliases); without adapters, theirs become zero. Each rank reads an equal
// share of the elements; the ranks gather the rest from one another. Errors as name_in_source.
void load_flat(const ParameterBlock& block, const at::Tensor& flat, const model::TensorSource& source,
               const std::string& name_prefix, parallel::Communicator& comm, LoadPart part = LoadPart::kAll);

}  // namespace sft::engine
