#include "conformance/communicator_suite.h"

namespace sft::testing {
namespace {

Backend backend(const char* name) {
  return {name, [name] { return make_comm(name); }};
}

std::string name_of(const ::testing::TestParamInfo<Backend>& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Backends, CommunicatorSuite,
                         ::testing::Values(backend("single"), backend("mpi"), backend("mpi-unthreaded")),
                         name_of);

}  // namespace
}  // namespace sft::testing
