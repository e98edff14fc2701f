#include "sft/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "optim/adamw.h"
#include "optim/sgd.h"
#include "sft/base/error.h"

namespace sft::optim {
namespace {

void check(const FlatRange& range) {
  const at::Tensor& p = range.parameter;
  const at::Tensor& g = range.gradient;
  for (const at::Tensor* tensor : {&p, &g}) {
    if (tensor->dim() != 1 || !tensor->is_contiguous() || tensor->scalar_type() != at::kFloat) {
      base::fail(base::ExitCode::kInternal,
                 "optimizer range: not a contiguous one-dimensional float32 tensor");
    }
  }
  if (p.numel() != g.numel() || p.device() != g.device()) {
    base::fail(base::ExitCode::kInternal, "optimizer range: parameter and gradient differ in size or device");
  }
  if (range.num_decayed < 0 || range.num_decayed > p.numel()) {
    base::fail(base::ExitCode::kInternal, "optimizer range: {} decayed elements of {}", range.num_decayed,
               p.numel());
  }
}

}  // namespace

std::unique_ptr<Optimizer> Optimizer::create(const config::OptimizerOptions& options,
                                             std::vector<FlatRange> ranges) {
  for (const FlatRange& range : ranges) check(range);
  if (options.optim == "adamw_torch" || options.optim == "adamw_torch_fused") {
    return make_adamw(options, std::move(ranges));
  }
  if (options.optim == "sgd") return make_sgd(options, std::move(ranges));
  base::fail(base::ExitCode::kConfig, "optim = {}: allowed are adamw_torch, adamw_torch_fused and sgd",
             options.optim);
}

double clip_factor(double grad_norm, double max_grad_norm) {
  if (max_grad_norm == 0.0) return 1.0;
  const double factor = max_grad_norm / (grad_norm + 1e-6);
  // A NaN norm gives NaN, as torch's clamp does.
  return factor > 1.0 ? 1.0 : factor;
}

}  // namespace sft::optim
