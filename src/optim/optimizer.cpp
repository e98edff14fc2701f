#include "sft/optim/optimizer.h"

#include <fmt/ranges.h>

#include <cmath>
#include <utility>

#include "optim/adafactor.h"
#include "optim/adamw.h"
#include "optim/adamw_8bit.h"
#include "optim/lion.h"
#include "optim/option_kwargs.h"
#include "optim/schedule_free.h"
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
  for (const FlatTensor& tensor : range.tensors) {
    if (tensor.offset < 0 || tensor.offset + tensor.numel() > p.numel())
      base::fail(base::ExitCode::kInternal, "optimizer range: a tensor lies outside of it");
  }
}

using Make = std::unique_ptr<Optimizer> (*)(const config::OptimizerOptions&, std::vector<FlatRange>, int64_t);

template <std::unique_ptr<Optimizer> (*make)(const config::OptimizerOptions&, std::vector<FlatRange>)>
std::unique_ptr<Optimizer> without_warmup(const config::OptimizerOptions& options,
                                          std::vector<FlatRange> ranges, int64_t) {
  return make(options, std::move(ranges));
}

struct Kind {
  const char* name;
  Make make;
  bool takes_args = false;
};
constexpr Kind kKinds[] = {{"adamw_torch", without_warmup<make_adamw>},
                           {"adamw_torch_fused", without_warmup<make_adamw>},
                           {"adamw_8bit", without_warmup<make_adamw_8bit>},
                           {"sgd", without_warmup<make_sgd>, true},
                           {"lion_32bit", without_warmup<make_lion>},
                           {"adafactor", without_warmup<make_adafactor>},
                           {"schedule_free_adamw", make_schedule_free_adamw, true}};

}  // namespace

std::unique_ptr<Optimizer> Optimizer::create(const config::OptimizerOptions& options,
                                             std::vector<FlatRange> ranges, int64_t warmup_steps) {
  for (const FlatRange& range : ranges) check(range);
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) {
    names.emplace_back(kind.name);
    if (options.optim != kind.name) continue;
    if (!kind.takes_args) OptionKwargs("optim_args", options.optim, options.optim_args).check_nothing_left();
    return kind.make(options, std::move(ranges), warmup_steps);
  }
  base::fail(base::ExitCode::kConfig, "optim = {}: allowed are {}", options.optim, fmt::join(names, ", "));
}

void Optimizer::set_scalars(const std::vector<double>& values) {
  if (!values.empty())
    base::fail(base::ExitCode::kInvalidData, "the checkpoint has optimizer_scalars, this optimizer has none");
}

int64_t FlatTensor::numel() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

double clip_factor(double grad_norm, double max_grad_norm) {
  if (max_grad_norm == 0.0) return 1.0;
  const double factor = max_grad_norm / (grad_norm + 1e-6);
  // A NaN norm gives NaN, as torch's clamp does.
  return factor > 1.0 ? 1.0 : factor;
}

}  // namespace sft::optim
