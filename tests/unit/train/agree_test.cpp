#include "sft/train/agree.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>

namespace sft::train {
namespace {

using base::ExitCode;

TEST(ExitCodes, OfErrorsThatLibrariesThrow) {
  EXPECT_EQ(code_of(std::bad_alloc()), ExitCode::kOutOfMemory);
  EXPECT_EQ(code_of(std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again))),
            ExitCode::kOutOfMemory);
  EXPECT_EQ(code_of(std::runtime_error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")),
            ExitCode::kOutOfMemory);
  const std::error_code full = std::make_error_code(std::errc::no_space_on_device);
  EXPECT_EQ(code_of(std::filesystem::filesystem_error("cannot copy", full)), ExitCode::kStorage);
  EXPECT_EQ(code_of(std::system_error(full)), ExitCode::kInternal);
  EXPECT_EQ(code_of(std::logic_error("impossible")), ExitCode::kInternal);
}

TEST(ExitCodes, OfAGpuThatFailedAndOfOneThatIsFull) {
  const c10::SourceLocation here{__func__, __FILE__, __LINE__};
  EXPECT_EQ(code_of(c10::AcceleratorError(here, 214, "CUDA error: uncorrectable ECC error encountered")), ExitCode::kHang);
  EXPECT_EQ(code_of(c10::AcceleratorError(here, 2, "CUDA error: out of memory")), ExitCode::kOutOfMemory);
}

}  // namespace
}  // namespace sft::train
