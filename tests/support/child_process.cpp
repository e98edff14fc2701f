#include "support/child_process.h"

#include <fmt/core.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <memory>
#include <stdexcept>

namespace sft::testing {

ChildResult run_command(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot start: " + command);
  ChildResult result;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

ChildResult run_mpi(int ranks, const std::string& program_and_arguments, const std::string& options) {
  // env -i: a test that runs under mpirun itself must not hand its job on.
  return run_command(fmt::format(
      "env -i PATH=\"$PATH\" HOME=\"$HOME\" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
      "{} --oversubscribe {} {} {} {}",
      SFT_MPIEXEC, options, SFT_MPIEXEC_NUMPROC_FLAG, ranks, program_and_arguments));
}

}  // namespace sft::testing
