// What the nccl back end does when NCCL fails, on test doubles.
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <string>

#include "parallel/backends.h"
#include "sft/base/error.h"
#include "support/fake_device.h"
#include "support/mpi_test.h"

namespace sft::testing {
namespace {

using base::ExitCode;

std::unique_ptr<parallel::Communicator> make_nccl(
    FakeDevice& device, std::chrono::milliseconds deadline = std::chrono::seconds(30)) {
  return parallel::make_nccl_communicator(make_comm("mpi"), device.backend, deadline);
}

// The error's message; empty when there was none. Its code goes to `code`.
template <typename Call>
std::string error_of(Call&& call, ExitCode& code) {
  try {
    call();
  } catch (const base::Error& error) {
    code = error.code();
    return error.what();
  }
  return {};
}

TEST(NcclFailures, AsynchronousErrorEndsTheWaitAndNamesTheOperation) {
  FakeDevice device;
  device.nccl.fail_operation(1);
  const auto comm = make_nccl(device);
  const at::Tensor tensor = at::ones({1000});
  comm->all_reduce(tensor).wait();
  ExitCode code = ExitCode::kDone;
  parallel::Work hanging = comm->all_gather(at::ones({1000 * comm->size()}), tensor);
  const std::string message = error_of([&] { hanging.wait(); }, code);
  EXPECT_EQ(code, ExitCode::kHang);
  EXPECT_NE(message.find("all_gather"), std::string::npos) << message;
  EXPECT_NE(message.find("network error"), std::string::npos) << message;
  EXPECT_EQ(device.nccl.num_aborted(), 1);
  // On a device the host does not wait in wait(): who has waited for the device looks once more.
  EXPECT_NE(error_of([&] { comm->check(); }, code).find("network error"), std::string::npos);
}

TEST(NcclFailures, NothingIsStartedAfterAnError) {
  FakeDevice device;
  device.nccl.fail_operation(0);
  const auto comm = make_nccl(device);
  const at::Tensor tensor = at::ones({1000});
  ExitCode code = ExitCode::kDone;
  error_of([&] { comm->all_reduce(tensor).wait(); }, code);
  const std::string message = error_of([&] { comm->broadcast(tensor, 0); }, code);
  EXPECT_NE(message.find("broadcast"), std::string::npos) << message;
  EXPECT_TRUE(comm->all(true)) << "the control plane still works, to agree on what to do";
  EXPECT_EQ(device.nccl.num_aborted(), 1);
}

// One rank sees its error at once; the others wait in the collective until word of it has come.
TEST(NcclFailures, ErrorThatReachesTheRanksOneAfterTheOther) {
  FakeDevice device;
  const auto control = make_comm("mpi");
  device.nccl.fail_operation(0, control->rank() == 0 ? 0 : 10 * control->rank());
  const auto comm = make_nccl(device);
  ExitCode code = ExitCode::kDone;
  const at::Tensor tensor = at::ones({1000});
  const std::string message = error_of([&] { comm->all_reduce(tensor).wait(); }, code);
  EXPECT_EQ(code, ExitCode::kHang);
  EXPECT_NE(message.find("all_reduce"), std::string::npos) << message;
  EXPECT_EQ(device.nccl.num_aborted(), 1);
}

TEST(NcclFailures, CallThatIsRefusedIsNamed) {
  FakeDevice device;
  device.nccl.refuse_operation(1);
  const auto comm = make_nccl(device);
  const at::Tensor tensor = at::ones({1000});
  comm->all_reduce(tensor).wait();
  ExitCode code = ExitCode::kDone;
  const std::string message = error_of([&] { comm->broadcast(tensor, 0); }, code);
  EXPECT_EQ(code, ExitCode::kHang);
  EXPECT_NE(message.find("broadcast failed: invalid usage"), std::string::npos) << message;
  EXPECT_EQ(device.nccl.num_aborted(), 1);
}

TEST(NcclFailures, CallThatIsAcceptedLateCounts) {
  FakeDevice device;
  device.nccl.delay_operation(0, 20);
  const auto comm = make_nccl(device);
  const at::Tensor tensor = at::ones({1000});
  comm->all_reduce(tensor).wait();
  EXPECT_TRUE(tensor.eq(static_cast<double>(comm->size())).all().item<bool>());
  EXPECT_EQ(device.nccl.num_aborted(), 0);
}

TEST(NcclFailures, CallHasADeadline) {
  FakeDevice device;
  device.nccl.delay_operation(0, FakeNccl::kNever);
  const auto comm = make_nccl(device, std::chrono::milliseconds(300));
  const at::Tensor tensor = at::ones({1000});
  ExitCode code = ExitCode::kDone;
  const std::string message = error_of([&] { comm->all_reduce(tensor); }, code);
  EXPECT_EQ(code, ExitCode::kHang);
  EXPECT_NE(message.find("all_reduce: no answer"), std::string::npos) << message;
  EXPECT_EQ(device.nccl.num_aborted(), 1);
}

TEST(NcclFailures, InitialisationThatIsRefusedSaysWhy) {
  FakeDevice device;
  device.nccl.refuse_initialisation();
  ExitCode code = ExitCode::kDone;
  const std::string message = error_of([&] { make_nccl(device); }, code);
  EXPECT_EQ(code, ExitCode::kHang);
  EXPECT_NE(message.find("initialisation failed: unhandled system error"), std::string::npos) << message;
}

TEST(NcclFailures, EndOfARunFinalises) {
  FakeDevice device;
  make_nccl(device)->barrier();
  EXPECT_EQ(device.nccl.num_finalised(), 1);
  EXPECT_EQ(device.nccl.num_aborted(), 0);
}

// Another rank that does not come to finalize must not keep this one.
TEST(NcclFailures, FinalizationHasADeadline) {
  FakeDevice device;
  device.nccl.never_finalise();
  make_nccl(device, std::chrono::milliseconds(300))->barrier();
  EXPECT_EQ(device.nccl.num_finalised(), 1);
  EXPECT_EQ(device.nccl.num_aborted(), 1);
}

TEST(NcclFailures, ExceptionAbortsAndDoesNotFinalise) {
  FakeDevice device;
  ExitCode code = ExitCode::kDone;
  const std::string message = error_of(
      [&] {
        const auto comm = make_nccl(device);
        base::fail(ExitCode::kInvalidData, "something else");
      },
      code);
  EXPECT_EQ(message, "something else");
  EXPECT_EQ(device.nccl.num_finalised(), 0);
  EXPECT_EQ(device.nccl.num_aborted(), 1);
}

TEST(NcclFailures, InitialisationHasADeadline) {
  FakeDevice device;
  device.nccl.never_initialise();
  ExitCode code = ExitCode::kDone;
  const std::string message = error_of([&] { make_nccl(device, std::chrono::milliseconds(50)); }, code);
  EXPECT_EQ(code, ExitCode::kHang);
  EXPECT_NE(message.find("initialisation"), std::string::npos) << message;
  EXPECT_EQ(device.nccl.num_aborted(), 1);
}

}  // namespace
}  // namespace sft::testing
