// How much work a token of a model is.
#pragma once

#include "sft/metrics/throughput.h"
#include "sft/model/decoder.h"

namespace sft::train {

metrics::ModelWork model_work(const model::Decoder& decoder);

}  // namespace sft::train
