#include "sft/metrics/throughput.h"

namespace sft::metrics {

double training_flops(const ModelWork& model, const StepWork& step) {
  const double linear = (6.0 * static_cast<double>(model.block_linear_parameters) -
                         2.0 * static_cast<double>(model.frozen_block_linear_parameters)) *
                        static_cast<double>(step.num_tokens);
  const double head = (model.head_is_frozen ? 4.0 : 6.0) * static_cast<double>(model.head_parameters) *
                      static_cast<double>(step.num_targets);
  const double attention = 6.0 * static_cast<double>(model.num_layers) *
                           static_cast<double>(model.num_heads) * static_cast<double>(model.head_dim) *
                           step.sum_squared_lengths;
  return linear + head + attention;
}

double model_flops_utilisation(double flops, double seconds, double peak_flops_per_second) {
  return seconds > 0 && peak_flops_per_second > 0 ? flops / seconds / peak_flops_per_second : 0.0;
}

double tokens_per_second(int64_t num_tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(num_tokens) / seconds : 0.0;
}

}  // namespace sft::metrics
