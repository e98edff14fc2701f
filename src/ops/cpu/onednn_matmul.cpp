// Matrix products through oneDNN's public API, primitives cached by shape.
#include <ATen/Parallel.h>

#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>

#include "ops/cpu/cpu.h"

namespace sft::ops::cpu {
namespace {

// What a primitive depends on. Row and column strides tell plain from transposed operands.
struct Key {
  std::array<int64_t, 3> sizes;  // M, N, K
  std::array<int64_t, 6> strides;
  bool bf16, bf16_result, bias, accumulate;
  int threads;
  auto operator<=>(const Key&) const = default;
};

struct CachedMatmul {
  dnnl::matmul primitive;
  bool is_brgemm = false;
  dnnl::memory::desc a, b, bias, c;
};

// Packed micro-batches have ever new token counts, and a primitive takes half a megabyte: forget everything
// rather than grow. A model needs some fifteen for each count, all its layers the same.
constexpr std::size_t kMaxCachedPrimitives = 128;

const dnnl::engine& engine() {
  static const dnnl::engine instance = [] {
    dnnl::set_primitive_cache_capacity(0);  // its own cache would hold what ours forgets
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return instance;
}

CachedMatmul make_primitive(const Key& key) {
  using Desc = dnnl::memory::desc;
  const auto [m, n, k] = key.sizes;
  const auto& s = key.strides;
  constexpr auto kFloat = dnnl::memory::data_type::f32, kBf16 = dnnl::memory::data_type::bf16;
  const auto type = key.bf16 ? kBf16 : kFloat;
  CachedMatmul made;
  made.a = Desc({m, k}, type, dnnl::memory::dims{s[0], s[1]});
  made.b = Desc({k, n}, type, dnnl::memory::dims{s[2], s[3]});
  made.c = Desc({m, n}, key.bf16_result ? kBf16 : kFloat, dnnl::memory::dims{s[4], s[5]});
  if (key.bias) made.bias = Desc({1, n}, kFloat, dnnl::memory::dims{n, 1});
  dnnl::primitive_attr attributes;
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0F);
    attributes.set_post_ops(sum);
  }
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc description(engine(), made.a, made.b, made.bias, made.c, attributes);
#else
  const dnnl::matmul::primitive_desc description({made.a, made.b, made.bias, made.c}, attributes, engine());
#endif
  made.primitive = dnnl::matmul(description);
  made.is_brgemm = std::string_view(description.impl_info_str()).starts_with("brg");
  return made;
}

// One cache per thread: the compute thread is the only one that fills it.
const CachedMatmul& cached_primitive(const Key& key) {
  thread_local std::map<Key, CachedMatmul> cache;
  const auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  if (cache.size() >= kMaxCachedPrimitives) cache.clear();
  return cache.emplace(key, make_primitive(key)).first->second;
}

// One of the two strides must be 1 for oneDNN's fast paths.
at::Tensor with_unit_stride(const at::Tensor& t) {
  return t.stride(0) == 1 || t.stride(1) == 1 ? t : t.contiguous();
}

dnnl::memory memory_of(const dnnl::memory::desc& desc, const at::Tensor& t) {
  return dnnl::memory(desc, engine(), t.data_ptr());
}

}  // namespace

bool has_bf16() {
  static const bool supported = [] {
    constexpr auto kNeeded = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kNeeded) == kNeeded;
  }();
  return supported;
}

bool onednn_matmul(const at::Tensor& a_in, const at::Tensor& b_in, const at::Tensor& bias,
                   const at::Tensor& c, bool accumulate, OneDnnKernels kernels) {
  // c transposed (the gradient of a plain weight) is the product of the transposed operands.
  if (c.stride(1) != 1 && c.stride(0) == 1) {
    TORCH_INTERNAL_ASSERT(!bias.defined());
    return onednn_matmul(b_in.t(), a_in.t(), bias, c.t(), accumulate, kernels);
  }
  const at::Tensor a = with_unit_stride(a_in);
  const at::Tensor b = with_unit_stride(b_in);
  const Key key{{a.size(0), b.size(1), a.size(1)},
                {a.stride(0), a.stride(1), b.stride(0), b.stride(1), c.stride(0), c.stride(1)},
                a.scalar_type() == at::kBFloat16,
                c.scalar_type() == at::kBFloat16,
                bias.defined(),
                accumulate,
                at::get_num_threads()};
  const CachedMatmul& cached = cached_primitive(key);
  if (kernels == OneDnnKernels::kBrgemm && !cached.is_brgemm) return false;
  std::unordered_map<int, dnnl::memory> arguments = {{DNNL_ARG_SRC, memory_of(cached.a, a)},
                                                     {DNNL_ARG_WEIGHTS, memory_of(cached.b, b)},
                                                     {DNNL_ARG_DST, memory_of(cached.c, c)}};
  const at::Tensor dense_bias = bias.defined() ? bias.to(at::kFloat).contiguous() : bias;
  if (bias.defined()) arguments.emplace(DNNL_ARG_BIAS, memory_of(cached.bias, dense_bias));
  dnnl::stream stream(engine());
  cached.primitive.execute(stream, arguments);
  stream.wait();
  return true;
}

}  // namespace sft::ops::cpu
