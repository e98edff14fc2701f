// What a test that runs on several ranks gets from its main(): tests/support/mpi_test_main.cpp.
#pragma once

#include <memory>
#include <string>

#include "sft/parallel/communicator.h"
#include "sft/parallel/environment.h"

namespace sft::testing {

parallel::MpiEnv& env();

// All ranks of this run, made as the program makes its own on a CPU.
parallel::Communicator& world();

// Collective. "single" (each rank its own world of one) | "mpi" | "mpi-unthreaded"; mpi also in a world of
// one.
std::unique_ptr<parallel::Communicator> make_comm(const std::string& backend);

}  // namespace sft::testing
