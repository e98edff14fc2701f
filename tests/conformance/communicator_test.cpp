#include "conformance/communicator_suite.h"
#include "parallel/backends.h"
#include "support/delaying_communicator.h"
#include "support/fake_device.h"

namespace sft::testing {
namespace {

Backend backend(const char* name) {
  return {name, [name] { return make_comm(name); }};
}

// The double must be a communicator like any other, or tests that use it prove nothing.
class DelayedWorld : public DelayingCommunicator {
 public:
  DelayedWorld() : DelayingCommunicator(world(), std::chrono::microseconds(200)) {}
};

// The nccl back end's own control flow, without a GPU.
std::unique_ptr<parallel::Communicator> make_nccl_on_doubles() {
  static FakeDevice device;
  return parallel::make_nccl_communicator(make_comm("mpi"), device.backend, std::chrono::seconds(30));
}

std::string name_of(const ::testing::TestParamInfo<Backend>& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Backends, CommunicatorSuite,
                         ::testing::Values(backend("single"), backend("mpi"), backend("mpi-unthreaded"),
                                           Backend{"nccl-on-doubles", make_nccl_on_doubles},
                                           Backend{"delayed",
                                                   [] { return std::make_unique<DelayedWorld>(); }}),
                         name_of);

}  // namespace
}  // namespace sft::testing
