// Runs a shell command and gives what it printed and how it ended.
#pragma once

#include <string>

namespace sft::testing {

struct ChildResult {
  int exit_code = -1;  // 128 + signal when one ended it, as in a shell
  std::string output;  // stdout and stderr
};

ChildResult run_command(const std::string& command);

// As run_command, for `program arguments` on `ranks` ranks under mpirun; options go to mpirun. Works inside
// another MPI job and as root.
ChildResult run_mpi(int ranks, const std::string& program_and_arguments, const std::string& options = "");

}  // namespace sft::testing
