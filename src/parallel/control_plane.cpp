#include "parallel/control_plane.h"

#include <algorithm>
#include <exception>
#include <numeric>

#include "parallel/pieces.h"
#include "sft/base/activity.h"
#include "sft/base/error.h"

namespace sft::parallel {
namespace {

using activity::Plane;

// The buffers a running MPI_Iallreduce uses.
struct SumBuffers {
  int64_t value = 0;
  int64_t sum = 0;
  MPI_Request request = MPI_REQUEST_NULL;
};

class MpiPendingSum : public PendingSum {
 public:
  MpiPendingSum(MPI_Comm comm, int64_t value) : buffers_(std::make_unique<SumBuffers>()) {
    buffers_->value = value;
    check_mpi(
        MPI_Iallreduce(&buffers_->value, &buffers_->sum, 1, MPI_INT64_T, MPI_SUM, comm, &buffers_->request),
        "start_sum (MPI_Iallreduce)");
  }
  ~MpiPendingSum() override {
    if (std::uncaught_exceptions() > 0) {
      static_cast<void>(buffers_.release());  // MPI may still write there, and other ranks may never join
      return;
    }
    try {
      get();
    } catch (
        const base::Error&) {  // nobody asked for the sum, and the next operation will meet the same error
    }
  }
  int64_t get() override {
    const activity::Collective inside(Plane::kControl, "start_sum");
    if (buffers_->request != MPI_REQUEST_NULL)
      wait_politely(&buffers_->request, "start_sum (MPI_Iallreduce)");
    return buffers_->sum;
  }

 private:
  std::unique_ptr<SumBuffers> buffers_;
};

double combine(double a, double b, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return a + b;
    case ReduceOp::kMin:
      return std::min(a, b);
    case ReduceOp::kMax:
      return std::max(a, b);
  }
  return a;
}

}  // namespace

ControlPlane::ControlPlane(MPI_Comm parent)
    : comm_(MpiComm::duplicate(parent)),
      sums_(MpiComm::duplicate(parent)),
      rank_(comm_.rank()),
      size_(comm_.size()) {}

void ControlPlane::barrier() {
  const activity::Collective inside(Plane::kControl, "barrier");
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibarrier(comm_.get(), &request), "barrier (MPI_Ibarrier)");
  wait_politely(&request, "barrier (MPI_Ibarrier)");
}

void ControlPlane::all_reduce(std::span<int64_t> values, ReduceOp op) {
  const activity::Collective inside(Plane::kControl, "all_reduce of integers");
  const MPI_Op mpi_op = op == ReduceOp::kSum ? MPI_SUM : op == ReduceOp::kMin ? MPI_MIN : MPI_MAX;
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, values.data(), base::narrow<int>(values.size()), MPI_INT64_T, mpi_op,
                           comm_.get(), &request),
            "all_reduce of integers (MPI_Iallreduce)");
  wait_politely(&request, "all_reduce of integers (MPI_Iallreduce)");
}

void ControlPlane::all_reduce(std::span<double> values, ReduceOp op) {
  const activity::Collective inside(Plane::kControl, "all_reduce of doubles");
  constexpr const char* kWhat = "all_reduce of doubles (MPI_Iallgather)";
  constexpr std::size_t kPiece = 1U << 16;  // of which every rank's are held at once
  // Gathered and added in rank order here: MPI does not promise every rank the same rounding.
  while (!values.empty()) {
    const std::span<double> piece = values.first(std::min(kPiece, values.size()));
    const std::size_t n = piece.size();
    std::vector<double> all(n * static_cast<std::size_t>(size_));
    const int count = base::narrow<int>(n);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgather(piece.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, comm_.get(), &request), kWhat);
    wait_politely(&request, kWhat);
    std::copy_n(all.begin(), n, piece.begin());
    for (std::size_t i = n; i < all.size(); ++i) piece[i % n] = combine(piece[i % n], all[i], op);
    values = values.subspan(n);
  }
}

std::vector<std::string> ControlPlane::all_gather_bytes(std::string_view bytes) {
  const activity::Collective inside(Plane::kControl, "all_gather_bytes");
  constexpr const char* kWhat = "all_gather_bytes (MPI_Iallgatherv)";
  std::vector<int64_t> lengths(static_cast<std::size_t>(size_));
  const auto own_length = static_cast<int64_t>(bytes.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(
      MPI_Iallgather(&own_length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_.get(), &request),
      kWhat);
  wait_politely(&request, kWhat);

  std::vector<int> counts, offsets;
  int64_t total = 0;
  for (const int64_t length : lengths) {
    counts.push_back(base::narrow<int>(length));
    offsets.push_back(base::narrow<int>(total));
    total += length;
  }
  std::string all(static_cast<std::size_t>(base::narrow<int>(total)), '\0');
  check_mpi(MPI_Iallgatherv(bytes.data(), base::narrow<int>(own_length), MPI_CHAR, all.data(), counts.data(),
                            offsets.data(), MPI_CHAR, comm_.get(), &request),
            kWhat);
  wait_politely(&request, kWhat);

  std::vector<std::string> result;
  for (std::size_t r = 0; r < counts.size(); ++r) {
    result.push_back(all.substr(static_cast<std::size_t>(offsets[r]), static_cast<std::size_t>(counts[r])));
  }
  return result;
}

std::string ControlPlane::broadcast_bytes(std::string_view bytes, int root) {
  const activity::Collective inside(Plane::kControl, "broadcast_bytes");
  constexpr const char* kWhat = "broadcast_bytes (MPI_Ibcast)";
  if (root < 0 || root >= size_)
    base::fail(base::ExitCode::kInternal, "broadcast_bytes: no rank {} among {}", root, size_);
  auto length = static_cast<int64_t>(bytes.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibcast(&length, 1, MPI_INT64_T, root, comm_.get(), &request), kWhat);
  wait_politely(&request, kWhat);
  std::string result =
      rank_ == root ? std::string(bytes) : std::string(static_cast<std::size_t>(length), '\0');
  constexpr int64_t kPieceBytes = int64_t{1} << 26;
  for_each_piece(length, kPieceBytes, [&](int64_t offset, int count) {
    check_mpi(MPI_Ibcast(result.data() + offset, count, MPI_CHAR, root, comm_.get(), &request), kWhat);
    wait_politely(&request, kWhat);
  });
  return result;
}

std::unique_ptr<PendingSum> ControlPlane::start_sum(int64_t value) {
  return std::make_unique<MpiPendingSum>(sums_.get(), value);
}

MpiComm ControlPlane::split(int color, int key) {
  return MpiComm::split(comm_.get(), color, key);
}

}  // namespace sft::parallel
