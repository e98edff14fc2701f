// One verdict for all ranks on something each rank tried for itself.
#pragma once

#include <exception>
#include <string>

#include "sft/base/error.h"
#include "sft/parallel/communicator.h"

namespace sft::train {

// Collective. Throws, on all ranks, the error of the lowest rank that has one; then nobody is left waiting in
// a collective. code 0: this rank has none.
void agree_on_errors(parallel::Communicator& comm, int code, const std::string& message);

// Local. The exit code of an exception that is no Error: out of memory, a GPU that failed, storage, or a bug.
base::ExitCode code_of(const std::exception& error);

// Collective, but `action` is Local: runs it on every rank and agrees on its errors.
template <typename Action>
void on_all_ranks(parallel::Communicator& comm, Action&& action) {
  int code = 0;
  std::string message;
  try {
    action();
  } catch (const base::Error& error) {
    code = static_cast<int>(error.code());
    message = error.what();
  } catch (const std::exception& error) {
    code = static_cast<int>(code_of(error));
    message = error.what();
  }
  agree_on_errors(comm, code, message);
}

// The same for what only rank 0 does.
template <typename Action>
void on_rank_0(parallel::Communicator& comm, Action&& action) {
  on_all_ranks(comm, [&] {
    if (comm.rank() == 0) action();
  });
}

}  // namespace sft::train
