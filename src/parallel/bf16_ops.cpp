#include "parallel/bf16_ops.h"

#include <bit>
#include <exception>

#include "parallel/mpi_handle.h"

namespace sft::parallel {
namespace {

float widen(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// To nearest even; a NaN stays one (its quiet bit is set, as rounding could otherwise make it infinite).
uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40U;
  return static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
}

template <typename Combine>
void combine_each(const uint16_t* in, uint16_t* inout, int64_t count, Combine combine) {
  for (int64_t i = 0; i < count; ++i) inout[i] = round_to_bf16(combine(widen(in[i]), widen(inout[i])));
}

template <ReduceOp op>
void mpi_function(void* in, void* inout, int* count, MPI_Datatype* /*type*/) {
  combine_bf16(static_cast<const uint16_t*>(in), static_cast<uint16_t*>(inout), *count, op);
}

}  // namespace

void combine_bf16(const uint16_t* in, uint16_t* inout, int64_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return combine_each(in, inout, count, [](float a, float b) { return a + b; });
    case ReduceOp::kMin:
      return combine_each(in, inout, count, [](float a, float b) { return b < a ? b : a; });
    case ReduceOp::kMax:
      return combine_each(in, inout, count, [](float a, float b) { return a < b ? b : a; });
  }
}

Bf16Ops::Bf16Ops() {
  constexpr int kCommutes = 1;
  check_mpi(MPI_Op_create(&mpi_function<ReduceOp::kSum>, kCommutes, &ops_[static_cast<int>(ReduceOp::kSum)]),
            "MPI_Op_create");
  check_mpi(MPI_Op_create(&mpi_function<ReduceOp::kMin>, kCommutes, &ops_[static_cast<int>(ReduceOp::kMin)]),
            "MPI_Op_create");
  check_mpi(MPI_Op_create(&mpi_function<ReduceOp::kMax>, kCommutes, &ops_[static_cast<int>(ReduceOp::kMax)]),
            "MPI_Op_create");
}

Bf16Ops::~Bf16Ops() {
  int finalized = 0;
  if (std::uncaught_exceptions() > 0 || MPI_Finalized(&finalized) != MPI_SUCCESS || finalized != 0) return;
  for (MPI_Op& op : ops_) {
    if (op != MPI_OP_NULL) MPI_Op_free(&op);
  }
}

}  // namespace sft::parallel
