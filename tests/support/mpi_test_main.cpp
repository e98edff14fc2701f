// main() for GoogleTest on several ranks.
//
// Rank 0 reports as usual; the others write failures at once to stderr. After each test the verdicts are
// gathered, so that rank 0 fails when any rank failed. A watchdog ends a rank whose test hangs. Wrong number
// of ranks, or nothing to run: an error.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "parallel/backends.h"
#include "support/mpi_test.h"

namespace sft::testing {
namespace {

parallel::MpiEnv* the_env = nullptr;
parallel::Communicator* the_world = nullptr;

struct Arguments {
  int expected_ranks = 0;  // 0: any
  int timeout_seconds = 60;
};

// Takes our own arguments out of argv.
Arguments take_arguments(int& argc, char** argv) {
  Arguments arguments;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view text = argv[i];
    const auto number_after = [&](std::string_view name, int& value) {
      if (!text.starts_with(name)) return false;
      const char* end = text.data() + text.size();
      return std::from_chars(text.data() + name.size(), end, value).ptr == end;
    };
    if (!number_after("--expect-ranks=", arguments.expected_ranks) &&
        !number_after("--test-timeout=", arguments.timeout_seconds)) {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return arguments;
}

// Ends this process, and with it the job, when a test takes too long.
class Watchdog {
 public:
  Watchdog(int rank, std::chrono::seconds limit) : rank_(rank), limit_(limit), thread_([this] { watch(); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void begin(std::string test) {
    const std::lock_guard lock(mutex_);
    test_ = std::move(test);
    deadline_ = std::chrono::steady_clock::now() + limit_;
    changed_.notify_all();
  }
  void end() {
    const std::lock_guard lock(mutex_);
    deadline_.reset();
    changed_.notify_all();
  }

 private:
  void watch() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (!deadline_) {
        changed_.wait(lock);
      } else if (changed_.wait_until(lock, *deadline_) == std::cv_status::timeout && deadline_ &&
                 std::chrono::steady_clock::now() >= *deadline_) {
        std::fprintf(stderr, "[rank %d] test %s did not end within %lld s\n", rank_, test_.c_str(),
                     static_cast<long long>(limit_.count()));
        std::fflush(nullptr);
        std::_Exit(3);  // needs nothing of MPI; mpirun then ends the other ranks
      }
    }
  }

  int rank_;
  std::chrono::seconds limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  std::string test_;
  std::thread thread_;  // last: starts when the rest is there
};

// On ranks other than 0, in place of GoogleTest's printer.
class FailurePrinter : public ::testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s:%d: Failure\n%s\n", rank_,
                 result.file_name() ? result.file_name() : "unknown file", result.line_number(),
                 result.message());
    std::fflush(stderr);
  }

 private:
  int rank_;
};

// Gathers verdicts over a communicator of its own, which the collectives under test can never match.
class VerdictGatherer : public ::testing::EmptyTestEventListener {
 public:
  VerdictGatherer(Watchdog& watchdog, bool uses_mpi) : watchdog_(watchdog), uses_mpi_(uses_mpi) {
    if (uses_mpi_) MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
  }
  ~VerdictGatherer() override {
    if (uses_mpi_) MPI_Comm_free(&comm_);
  }
  void OnTestStart(const ::testing::TestInfo& test) override {
    watchdog_.begin(std::string(test.test_suite_name()) + "." + test.name());
  }
  void OnTestEnd(const ::testing::TestInfo& test) override {
    if (uses_mpi_) gather(test.result()->Failed() ? 1 : 0);
    watchdog_.end();
  }

 private:
  void gather(int failed) {
    int rank = 0, size = 1;
    MPI_Comm_rank(comm_, &rank);
    MPI_Comm_size(comm_, &size);
    std::vector<int> verdicts(static_cast<std::size_t>(size));
    MPI_Allgather(&failed, 1, MPI_INT, verdicts.data(), 1, MPI_INT, comm_);
    std::string ranks;
    for (int r = 0; r < size; ++r) {
      if (r != rank && verdicts[static_cast<std::size_t>(r)] != 0) ranks += fmt::format(" {}", r);
    }
    if (rank == 0 && !ranks.empty()) ADD_FAILURE() << "failed on rank" << ranks;
  }

  Watchdog& watchdog_;
  bool uses_mpi_;
  MPI_Comm comm_ = MPI_COMM_NULL;
};

// Leaves the printer and the XML file to rank 0.
void silence_other_ranks(int rank) {
  if (rank == 0) return;
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  delete listeners.Release(listeners.default_xml_generator());
  listeners.Append(new FailurePrinter(rank));
}

int run_selected_tests(int rank, VerdictGatherer& gatherer) {
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  silence_other_ranks(rank);
  listeners.Append(&gatherer);  // last: the end of a test is told to the last listener first
  const int status = RUN_ALL_TESTS();
  listeners.Release(&gatherer);
  if (::testing::UnitTest::GetInstance()->test_to_run_count() > 0) return status;
  std::fprintf(stderr, "[rank %d] no test was selected\n", rank);
  return 4;
}

int run_tests(const Arguments& arguments, parallel::MpiEnv& environment) {
  const parallel::Topology& topology = environment.topology();
  if (arguments.expected_ranks != 0 && arguments.expected_ranks != topology.world_size) {
    std::fprintf(stderr, "[rank %d] %d ranks expected, %d started\n", topology.rank, arguments.expected_ranks,
                 topology.world_size);
    environment.abort(static_cast<base::ExitCode>(2));
  }
  int uses_mpi = 0;
  MPI_Initialized(&uses_mpi);
  parallel::configure_threads(0, topology);
  const auto world_communicator = environment.create_communicator("auto", "cpu");
  the_env = &environment;
  the_world = world_communicator.get();
  Watchdog watchdog(topology.rank, std::chrono::seconds(arguments.timeout_seconds));
  VerdictGatherer gatherer(watchdog, uses_mpi != 0);
  return run_selected_tests(topology.rank, gatherer);
}

}  // namespace

parallel::MpiEnv& env() {
  return *the_env;
}

parallel::Communicator& world() {
  return *the_world;
}

std::unique_ptr<parallel::Communicator> make_comm(const std::string& backend) {
  if (backend == "single") return parallel::make_single_communicator();
  if (backend == "mpi") return parallel::make_mpi_communicator(MPI_COMM_WORLD, /*threaded=*/true);
  if (backend == "mpi-unthreaded") return parallel::make_mpi_communicator(MPI_COMM_WORLD, /*threaded=*/false);
  throw std::invalid_argument("no communicator named " + backend);
}

}  // namespace sft::testing

int main(int argc, char** argv) {
  sft::parallel::MpiEnv env(&argc, &argv);
  ::testing::InitGoogleTest(&argc, argv);
  const auto arguments = sft::testing::take_arguments(argc, argv);
  const int status = sft::testing::run_tests(arguments, env);
  env.finish_ok();
  return status;
}
