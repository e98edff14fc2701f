// How much work a token of a model is, and a window.
#pragma once

#include "sft/data/loader.h"
#include "sft/metrics/throughput.h"
#include "sft/model/decoder.h"

namespace sft::train {

metrics::ModelWork model_work(const model::Decoder& decoder);
// Of this rank's part of a window.
metrics::StepWork step_work(const data::Window& window);

}  // namespace sft::train
