#include "optim/adamw_8bit.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "optim/flat_optimizer.h"
#include "sft/base/checked.h"
#include "sft/base/error.h"

namespace sft::optim {
namespace {

constexpr int64_t kBlock = 256, kSmallest8bit = 4096;

struct AdamW8bitCoefficients {
  float keep, grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, bias_correction2_sqrt, epsilon,
      step_size;
};

void update_elements(const AdamW8bitCoefficients& c, int64_t count, float* __restrict parameter,
                     const float* __restrict gradient, float* __restrict exp_avg,
                     float* __restrict exp_avg_sq) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.grad_scale;
    const float m = exp_avg[i] * c.beta1 + c.one_minus_beta1 * g;
    const float v = exp_avg_sq[i] * c.beta2 + c.one_minus_beta2 * (g * g);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    parameter[i] =
        parameter[i] * c.keep - c.step_size * m / (std::sqrt(v) / c.bias_correction2_sqrt + c.epsilon);
  }
}

// Values and codes of one map.
class Quantizer {
 public:
  explicit Quantizer(bool with_sign) : values_(dynamic_map(with_sign)) {
    for (std::size_t i = 0; i + 1 < values_.size(); ++i) midpoints_[i] = (values_[i] + values_[i + 1]) / 2;
  }
  void decode(const uint8_t* codes, float largest, int64_t count, float* out) const {
    for (int64_t i = 0; i < count; ++i) out[i] = values_[codes[i]] * largest;
  }
  // The nearest value's code, the lower one's between two.
  void encode(const float* values, float largest, int64_t count, uint8_t* codes) const {
    const float scale = 1.0F / std::max(largest, 1e-38F);
    for (int64_t i = 0; i < count; ++i) {
      const float scaled = std::clamp(values[i] * scale, -1.0F, 1.0F);
      codes[i] = static_cast<uint8_t>(std::lower_bound(midpoints_.begin(), midpoints_.end(), scaled) -
                                      midpoints_.begin());
    }
  }

 private:
  std::array<float, 256> values_;
  std::array<float, 255> midpoints_{};
};

float largest_magnitude(const float* values, int64_t count) {
  float largest = 0.0F;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  return largest;
}

// One moment of one tensor.
struct Moment {
  at::Tensor exact;           // fp32 [numel], of a tensor that keeps 32 bits
  at::Tensor codes, largest;  // uint8 [numel, rounded up to whole words], fp32 [blocks]
};

class AdamW8bit final : public FlatOptimizer {
 public:
  AdamW8bit(const config::OptimizerOptions& options, std::vector<FlatRange> ranges)
      : FlatOptimizer(options, std::move(ranges)), moments_(ranges_.size()) {
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      if (!ranges_[i].parameter.is_cpu()) {
        base::fail(base::ExitCode::kConfig,
                   "optim = {} runs on the CPU only: use adamw_torch_fused or adafactor on a GPU",
                   options.optim);
      }
      for (const FlatTensor& tensor : ranges_[i].tensors)
        moments_[i].push_back({zeros(tensor), zeros(tensor)});
    }
    publish();
  }

  void step(double learning_rate, double grad_scale) override {
    ++step_count_;
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      for (std::size_t t = 0; t < ranges_[i].tensors.size(); ++t) update(i, t, learning_rate, grad_scale);
    }
  }

 private:
  using Moments = std::array<Moment, 2>;

  static Moment zeros(const FlatTensor& tensor) {
    const int64_t numel = tensor.numel();
    if (tensor.is_embedding || numel < kSmallest8bit) return {at::zeros({numel}, at::kFloat), {}, {}};
    return {{},
            at::zeros({base::round_up(numel, 4)}, at::kByte),
            at::zeros({base::ceil_div(numel, kBlock)}, at::kFloat)};
  }

  void publish() {
    constexpr const char* kNames[] = {"exp_avg", "exp_avg_sq"};
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      for (std::size_t t = 0; t < moments_[i].size(); ++t) {
        for (std::size_t m = 0; m < 2; ++m) {
          const Moment& moment = moments_[i][t][m];
          const std::string name = kNames[m];
          const auto add = [&](const std::string& its_name, const at::Tensor& data,
                               std::vector<int64_t> shape) {
            states_[i].of_tensors.push_back({its_name, t, std::move(shape), data});
          };
          if (moment.exact.defined()) {
            add(name, moment.exact, ranges_[i].tensors[t].shape);
          } else {
            const at::Tensor words = moment.codes.view(at::kFloat);  // four codes in one
            add(name + "_codes", words, {words.numel()});
            add(name + "_largest", moment.largest, {moment.largest.numel()});
          }
        }
      }
    }
  }

  void update(std::size_t range_index, std::size_t index, double learning_rate, double grad_scale) {
    const FlatRange& range = ranges_[range_index];
    const FlatTensor& tensor = range.tensors[index];
    const double decay = tensor.offset < range.num_decayed ? options_.weight_decay : 0.0;
    const auto step = static_cast<double>(step_count_);
    const AdamW8bitCoefficients c{
        .keep = static_cast<float>(1.0 - learning_rate * decay),
        .grad_scale = static_cast<float>(grad_scale),
        .beta1 = static_cast<float>(options_.adam_beta1),
        .one_minus_beta1 = static_cast<float>(1.0 - options_.adam_beta1),
        .beta2 = static_cast<float>(options_.adam_beta2),
        .one_minus_beta2 = static_cast<float>(1.0 - options_.adam_beta2),
        .bias_correction2_sqrt = static_cast<float>(std::sqrt(1.0 - std::pow(options_.adam_beta2, step))),
        .epsilon = static_cast<float>(options_.adam_epsilon),
        .step_size = static_cast<float>(learning_rate / (1.0 - std::pow(options_.adam_beta1, step)))};
    float* const parameter = range.parameter.mutable_data_ptr<float>() + tensor.offset;
    const float* const gradient = range.gradient.const_data_ptr<float>() + tensor.offset;
    Moments& moments = moments_[range_index][index];
    if (moments[0].exact.defined()) {
      float* const m = moments[0].exact.mutable_data_ptr<float>();
      float* const v = moments[1].exact.mutable_data_ptr<float>();
      at::parallel_for(0, tensor.numel(), kGrain, [&](int64_t begin, int64_t end) {
        update_elements(c, end - begin, parameter + begin, gradient + begin, m + begin, v + begin);
      });
      return;
    }
    uint8_t* const m_codes = moments[0].codes.mutable_data_ptr<uint8_t>();
    uint8_t* const v_codes = moments[1].codes.mutable_data_ptr<uint8_t>();
    float* const m_largest = moments[0].largest.mutable_data_ptr<float>();
    float* const v_largest = moments[1].largest.mutable_data_ptr<float>();
    at::parallel_for(0, moments[0].largest.numel(), kGrain / kBlock, [&](int64_t first, int64_t last) {
      std::array<float, kBlock> m, v;
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, count = std::min(kBlock, tensor.numel() - begin);
        signed_.decode(m_codes + begin, m_largest[block], count, m.data());
        unsigned_.decode(v_codes + begin, v_largest[block], count, v.data());
        update_elements(c, count, parameter + begin, gradient + begin, m.data(), v.data());
        m_largest[block] = largest_magnitude(m.data(), count);
        v_largest[block] = largest_magnitude(v.data(), count);
        signed_.encode(m.data(), m_largest[block], count, m_codes + begin);
        unsigned_.encode(v.data(), v_largest[block], count, v_codes + begin);
      }
    });
  }

  Quantizer signed_{true}, unsigned_{false};
  std::vector<std::vector<Moments>> moments_;  // [range][tensor]
};

}  // namespace

std::array<float, 256> dynamic_map(bool with_sign) {
  constexpr int kExponents = 7;
  std::vector<float> values{0.0F, 1.0F};
  for (int i = 0; i < kExponents; ++i) {
    // Means of neighbours among 2^i (2^(i+1) without sign) equal parts of [0.1, 1].
    const int parts = 1 << (with_sign ? i : i + 1);
    const double power = std::pow(10.0, i - kExponents + 1);
    const float step = (1.0F - 0.1F) / static_cast<float>(parts);
    const auto boundary = [&](int k) {  // as torch.linspace: from the nearer end
      return 2 * k < parts + 1 ? 0.1F + step * static_cast<float>(k)
                               : 1.0F - step * static_cast<float>(parts - k);
    };
    for (int k = 0; k < parts; ++k) {
      const float value = static_cast<float>(power) * ((boundary(k) + boundary(k + 1)) / 2.0F);
      values.push_back(value);
      if (with_sign) values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  std::array<float, 256> map{};
  std::copy(values.begin(), values.end(), map.begin());
  return map;
}

std::unique_ptr<Optimizer> make_adamw_8bit(const config::OptimizerOptions& options,
                                           std::vector<FlatRange> ranges) {
  return std::make_unique<AdamW8bit>(options, std::move(ranges));
}

}  // namespace sft::optim
