#include <cuda_runtime_api.h>
#include <fmt/core.h>
#include <nccl.h>

#include <cstring>

#include "parallel/cuda/cuda_runtime.h"

namespace sft::parallel {
namespace {

ncclComm_t comm_of(NcclApi::Comm comm) {
  return static_cast<ncclComm_t>(comm);
}
cudaStream_t stream_of(NcclApi::Stream stream) {
  return static_cast<cudaStream_t>(stream);
}

NcclApi::Result result_of(ncclResult_t code, ncclComm_t comm) {
  if (code == ncclSuccess) return {};
  if (code == ncclInProgress) return {NcclApi::Status::kInProgress, {}};
  return {NcclApi::Status::kFailed, fmt::format("{}: {}", ncclGetErrorString(code), ncclGetLastError(comm))};
}

ncclDataType_t type_of(NcclApi::Type type) {
  switch (type) {
    case NcclApi::Type::kFloat:
      return ncclFloat32;
    case NcclApi::Type::kDouble:
      return ncclFloat64;
    case NcclApi::Type::kBf16:
      return ncclBfloat16;
    case NcclApi::Type::kInt32:
      return ncclInt32;
    case NcclApi::Type::kInt64:
      return ncclInt64;
    case NcclApi::Type::kUint8:
      return ncclUint8;
  }
  return ncclUint8;
}

ncclRedOp_t op_of(ReduceOp op) {
  return op == ReduceOp::kSum ? ncclSum : op == ReduceOp::kMin ? ncclMin : ncclMax;
}

class RealNccl : public NcclApi {
 public:
  Result make_id(std::string& id) override {
    ncclUniqueId made;
    const Result result = result_of(ncclGetUniqueId(&made), nullptr);
    id.assign(made.internal, sizeof made.internal);
    return result;
  }
  Result init(Comm& comm, int rank, int size, const std::string& id) override {
    ncclUniqueId unique_id;
    if (id.size() != sizeof unique_id.internal) return {Status::kFailed, "the unique id has a wrong length"};
    std::memcpy(unique_id.internal, id.data(), id.size());
    ::setenv("NCCL_ALGO", "^NVLS,NVLSTree", /*overwrite=*/0);  // sums in the switch are not the same bits in a repeated run
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t made = nullptr;
    const ncclResult_t code = ncclCommInitRankConfig(&made, size, unique_id, rank, &config);
    comm = made;
    return result_of(code, made);
  }
  Result state(Comm comm) override {
    ncclResult_t code = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_of(comm), &code);
    return result_of(asked == ncclSuccess ? code : asked, comm_of(comm));
  }
  Result finalize(Comm comm) override { return result_of(ncclCommFinalize(comm_of(comm)), comm_of(comm)); }
  void destroy(Comm comm) override { ncclCommDestroy(comm_of(comm)); }
  void abort(Comm comm) override { ncclCommAbort(comm_of(comm)); }

  Result all_reduce(void* data, std::size_t count, Type type, ReduceOp op, Comm comm,
                    Stream stream) override {
    return result_of(
        ncclAllReduce(data, data, count, type_of(type), op_of(op), comm_of(comm), stream_of(stream)),
        comm_of(comm));
  }
  Result reduce_scatter(void* output, const void* input, std::size_t n, Type type, Comm comm,
                        Stream stream) override {
    return result_of(
        ncclReduceScatter(input, output, n, type_of(type), ncclSum, comm_of(comm), stream_of(stream)),
        comm_of(comm));
  }
  Result all_gather(void* output, const void* input, std::size_t n, Type type, Comm comm,
                    Stream stream) override {
    return result_of(ncclAllGather(input, output, n, type_of(type), comm_of(comm), stream_of(stream)),
                     comm_of(comm));
  }
  Result broadcast(void* data, std::size_t count, Type type, int root, Comm comm, Stream stream) override {
    return result_of(ncclBroadcast(data, data, count, type_of(type), root, comm_of(comm), stream_of(stream)),
                     comm_of(comm));
  }
};

}  // namespace

std::unique_ptr<NcclApi> make_nccl_api() {
  return std::make_unique<RealNccl>();
}

}  // namespace sft::parallel
