#include "sft/parallel/communicator.h"

#include <fmt/format.h>

#include <exception>

#include "sft/base/error.h"
#include "sft/base/hash.h"
#include "sft/base/log.h"

namespace sft::parallel {

Work& Work::operator=(Work&& other) {
  if (this != &other) {
    wait();
    state_ = std::move(other.state_);
  }
  return *this;
}

Work::~Work() {
  // While an exception unwinds, other ranks may never join this operation: the tensors are kept alive by the
  // operation itself.
  if (!state_ || std::uncaught_exceptions() > 0) return;
  try {
    state_->wait();
  } catch (const std::exception& error) {
    log::error("a collective nobody waited for failed: {}", error.what());
  }
}

void Work::wait() {
  if (state_) state_->wait();
}

bool Work::done() const {
  return !state_ || state_->done();
}

int64_t Communicator::sum(int64_t value) {
  all_reduce(std::span(&value, 1), ReduceOp::kSum);
  return value;
}

double Communicator::sum(double value) {
  all_reduce(std::span(&value, 1), ReduceOp::kSum);
  return value;
}

int64_t Communicator::min(int64_t value) {
  all_reduce(std::span(&value, 1), ReduceOp::kMin);
  return value;
}

int64_t Communicator::max(int64_t value) {
  all_reduce(std::span(&value, 1), ReduceOp::kMax);
  return value;
}

bool Communicator::all(bool value) {
  return min(value ? 1 : 0) == 1;
}

void Communicator::check_same(std::string_view what, std::string_view text) {
  const std::vector<std::string> digests = all_gather_bytes(base::xxh3_hex(text));
  std::vector<std::size_t> differing;
  for (std::size_t r = 1; r < digests.size(); ++r) {
    if (digests[r] != digests[0]) differing.push_back(r);
  }
  if (differing.empty()) return;
  throw base::Error(base::ExitCode::kDiverged,
                    fmt::format("{} is not the same on all ranks: rank {} {} from rank 0", what,
                                fmt::join(differing, ", "), differing.size() == 1 ? "differs" : "differ"),
                    base::SeenBy::kAllRanks);
}

}  // namespace sft::parallel
