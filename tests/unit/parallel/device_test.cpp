#include <gtest/gtest.h>

#include <string>

#include "parallel/device_backend.h"
#include "sft/base/error.h"
#include "sft/parallel/environment.h"
#include "support/fake_device.h"

namespace sft::parallel {
namespace {

using testing::FakeRuntime;

// The message of the configuration error; empty when there was none.
template <typename Call>
std::string config_error(Call&& call) {
  try {
    call();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    return error.what();
  }
  return {};
}

TEST(Device, OneGpuPerLocalRank) {
  FakeRuntime two_gpus(2);
  Topology topology;
  topology.local_world_size = 2;
  topology.local_rank = 1;
  use_own_gpu(two_gpus, topology);
  EXPECT_EQ(two_gpus.current_device(), 1);
}

TEST(Device, MoreRanksThanGpusIsAnErrorNamingBoth) {
  FakeRuntime one_gpu(1);
  Topology topology;
  topology.local_world_size = 2;
  topology.host = "node7";
  const std::string message = config_error([&] { use_own_gpu(one_gpu, topology); });
  EXPECT_NE(message.find("host node7 has 2 ranks and 1 GPU;"), std::string::npos) << message;
}

TEST(Device, CpuAndUnknownNames) {
  EXPECT_EQ(select_device("cpu", Topology{}), "cpu");
  EXPECT_NE(config_error([] { select_device("gpu", Topology{}); }), "");
}

// The library does not lie beside this test.
TEST(Device, CudaWithoutItsHalfSaysHowToGetIt) {
  const std::string message = config_error([] { select_device("cuda", Topology{}); });
  EXPECT_NE(message.find("SFT_WITH_CUDA"), std::string::npos) << message;
}

TEST(Device, BackEndsThatDoNotServeTheDeviceAreRefused) {
  MpiEnv env(nullptr, nullptr);
  EXPECT_EQ(std::string(env.create_communicator("auto", "cpu")->name()), "single");
  EXPECT_NE(config_error([&] { env.create_communicator("nccl", "cpu"); }), "");
  EXPECT_NE(config_error([&] { env.create_communicator("mpi", "cuda"); }), "");
}

TEST(Device, LibraryThatCannotBeLoadedIsAConfigurationError) {
  EXPECT_NE(config_error([] { load_device_backend("/no/such/libsft_cuda.so"); }), "");
}

#ifdef SFT_CUDA_LIBRARY
// With or without a GPU the library must load, LibTorch's CUDA half with it.
TEST(Device, CudaHalfLoadsAndCountsGpus) {
  const DeviceBackend& backend = load_device_backend(SFT_CUDA_LIBRARY);
  EXPECT_EQ(backend.runtime->device_type(), c10::DeviceType::CUDA);
  EXPECT_GE(backend.runtime->device_count(), 0);
  EXPECT_NE(backend.nccl, nullptr);
}
#endif

}  // namespace
}  // namespace sft::parallel
