// What every communicator must do, as one suite, run against each back end at 1, 2 and 3 ranks.
// Expected values are formulas in rank, world size and element index; nothing stops a test between two
// collectives.
#pragma once

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/hash.h"
#include "sft/parallel/communicator.h"
#include "support/mpi_test.h"

namespace sft::testing {

struct Backend {
  std::string name;
  std::function<std::unique_ptr<parallel::Communicator>()> make;  // Collective
};

inline void PrintTo(const Backend& backend, std::ostream* out) {
  *out << backend.name;
}

class CommunicatorSuite : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override { comm_ = GetParam().make(); }

  // Whole numbers below 61 that differ by rank, place and salt: the sum over three ranks is exact in every
  // dtype (bf16: up to 256).
  static at::Tensor values(int rank, int64_t count, at::ScalarType type, int64_t salt = 0) {
    return at::arange(count, at::kLong).mul(7).add(rank * 5 + salt * 3).remainder(61).to(type);
  }
  at::Tensor sum_of_values(int64_t count, at::ScalarType type, int64_t salt = 0) const {
    at::Tensor sum = values(0, count, at::kLong, salt);
    for (int r = 1; r < comm_->size(); ++r) sum += values(r, count, at::kLong, salt);
    return sum.to(type);
  }
  int rank() const { return comm_->rank(); }
  int size() const { return comm_->size(); }
  static bool same(const at::Tensor& a, const at::Tensor& b) { return at::equal(a, b); }

  inline static const std::vector<at::ScalarType> kTypes{at::kFloat, at::kDouble, at::kBFloat16,
                                                         at::kInt,   at::kLong,   at::kByte};
  // The last is more than a piece, and no multiple of anything.
  static std::vector<int64_t> counts(at::ScalarType type) {
    const bool long_too = type == at::kFloat || type == at::kBFloat16 || type == at::kLong;
    return long_too ? std::vector<int64_t>{0, 1, 2, 5, 1024, 600011} : std::vector<int64_t>{0, 1, 5, 1023};
  }

  std::unique_ptr<parallel::Communicator> comm_;
};

TEST_P(CommunicatorSuite, AllReduceSums) {
  for (const at::ScalarType type : kTypes) {
    for (const int64_t count : counts(type)) {
      const at::Tensor tensor = values(rank(), count, type);
      comm_->all_reduce(tensor).wait();
      EXPECT_TRUE(same(tensor, sum_of_values(count, type))) << c10::toString(type) << " x " << count;
    }
  }
}

TEST_P(CommunicatorSuite, AllReduceMinAndMax) {
  for (const at::ScalarType type : kTypes) {
    const at::Tensor low = at::full({1001}, 100 + rank(), type);
    const at::Tensor high = at::full({1001}, 100 + rank(), type);
    comm_->all_reduce(low, parallel::ReduceOp::kMin).wait();
    comm_->all_reduce(high, parallel::ReduceOp::kMax).wait();
    EXPECT_TRUE(same(low, at::full({1001}, 100, type))) << c10::toString(type);
    EXPECT_TRUE(same(high, at::full({1001}, 99 + size(), type))) << c10::toString(type);
  }
}

TEST_P(CommunicatorSuite, ReduceScatterGivesEachRankItsPartOfTheSum) {
  for (const at::ScalarType type : kTypes) {
    for (const int64_t n : counts(type)) {
      const at::Tensor input = values(rank(), n * size(), type);
      const at::Tensor output = at::empty({n}, type);
      comm_->reduce_scatter(output, input).wait();
      const at::Tensor expected = sum_of_values(n * size(), type).narrow(0, n * rank(), n);
      EXPECT_TRUE(same(output, expected)) << c10::toString(type) << " x " << n;
      EXPECT_TRUE(same(input, values(rank(), n * size(), type))) << "input was changed, n = " << n;
    }
  }
}

TEST_P(CommunicatorSuite, ReduceScatterInPlace) {
  const int64_t n = 700001;
  const at::Tensor buffer = values(rank(), n * size(), at::kFloat);
  const at::Tensor part = buffer.narrow(0, n * rank(), n);
  comm_->reduce_scatter(part, buffer).wait();
  EXPECT_TRUE(same(part, sum_of_values(n * size(), at::kFloat).narrow(0, n * rank(), n)));
}

TEST_P(CommunicatorSuite, AllGatherPutsPartsInRankOrder) {
  for (const at::ScalarType type : kTypes) {
    for (const int64_t n : counts(type)) {
      const at::Tensor output = at::empty({n * size()}, type);
      comm_->all_gather(output, values(rank(), n, type)).wait();
      for (int r = 0; r < size(); ++r) {
        EXPECT_TRUE(same(output.narrow(0, n * r, n), values(r, n, type)))
            << c10::toString(type) << " x " << n << " of rank " << r;
      }
    }
  }
}

TEST_P(CommunicatorSuite, AllGatherInPlace) {
  const int64_t n = 700001;
  const at::Tensor buffer = at::full({n * size()}, -1, at::kFloat);
  const at::Tensor part = buffer.narrow(0, n * rank(), n);
  part.copy_(values(rank(), n, at::kFloat));
  comm_->all_gather(buffer, part).wait();
  for (int r = 0; r < size(); ++r) {
    EXPECT_TRUE(same(buffer.narrow(0, n * r, n), values(r, n, at::kFloat))) << "rank " << r;
  }
}

TEST_P(CommunicatorSuite, BroadcastFromEveryRoot) {
  for (const at::ScalarType type : kTypes) {
    for (const int64_t count : counts(type)) {
      for (int root = 0; root < size(); ++root) {
        const at::Tensor tensor = values(rank(), count, type);
        comm_->broadcast(tensor, root).wait();
        EXPECT_TRUE(same(tensor, values(root, count, type)))
            << c10::toString(type) << " x " << count << " from " << root;
      }
    }
  }
}

// The sums here depend on the order of the additions: equal bits on all ranks, and when it is done again.
TEST_P(CommunicatorSuite, SumsHaveTheSameBitsOnAllRanksAndEveryTime) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const int64_t count = 600011;
    const at::Tensor input = values(rank(), count, at::kDouble).mul(0.1).add(1.0 / (3 + rank())).to(type);
    const auto digest = [&] {
      const at::Tensor tensor = input.clone();
      comm_->all_reduce(tensor).wait();
      return base::xxh3_hex(std::string_view(static_cast<const char*>(tensor.data_ptr()),
                                             static_cast<std::size_t>(tensor.nbytes())));
    };
    const std::string first = digest();
    for (int repeat = 0; repeat < 3; ++repeat) EXPECT_EQ(digest(), first) << c10::toString(type);
    for (const std::string& other : comm_->all_gather_bytes(first))
      EXPECT_EQ(other, first) << c10::toString(type);
  }
}

// 256 + 1 lies halfway between the bf16 values 256 and 258 and goes to the even 256; 256 + 3 goes to 260.
TEST_P(CommunicatorSuite, Bf16SumsRoundToNearestEven) {
  const at::Tensor tie_down = at::full({3}, rank() == 0 ? 256 : rank() == 1 ? 1 : 0, at::kBFloat16);
  const at::Tensor tie_up = at::full({3}, rank() == 0 ? 256 : rank() == 1 ? 3 : 0, at::kBFloat16);
  comm_->all_reduce(tie_down).wait();
  comm_->all_reduce(tie_up).wait();
  EXPECT_TRUE(same(tie_down, at::full({3}, 256, at::kBFloat16)));
  EXPECT_TRUE(same(tie_up, at::full({3}, size() > 1 ? 260 : 256, at::kBFloat16)));
}

TEST_P(CommunicatorSuite, ManyOperationsUnderWayKeepTheirOrder) {
  constexpr int kRounds = 20;
  const int64_t n = 20011;
  std::vector<at::Tensor> sums, gathered;
  std::vector<parallel::Work> works;
  for (int i = 0; i < kRounds; ++i) {
    sums.push_back(values(rank(), n, at::kFloat, i));
    gathered.push_back(at::empty({n * size()}, at::kFloat));
    works.push_back(comm_->all_reduce(sums.back()));
    works.push_back(comm_->all_gather(gathered.back(), sums.back()));  // takes the sum: program order
  }
  while (!works.empty()) works.pop_back();  // last first; destruction waits
  for (std::size_t i = 0; i < kRounds; ++i) {
    const at::Tensor expected = sum_of_values(n, at::kFloat, static_cast<int64_t>(i));
    EXPECT_TRUE(same(sums[i], expected)) << "round " << i;
    for (int r = 0; r < size(); ++r) {
      EXPECT_TRUE(same(gathered[i].narrow(0, n * r, n), expected)) << "round " << i << " rank " << r;
    }
  }
}

// Sums of equal length, both under way: only their order tells them apart.
TEST_P(CommunicatorSuite, TwoSumsUnderWayAreNotMixedUp) {
  const at::Tensor first = values(rank(), 5003, at::kFloat, 1);
  const at::Tensor second = values(rank(), 5003, at::kFloat, 2);
  parallel::Work first_work = comm_->all_reduce(first);
  parallel::Work second_work = comm_->all_reduce(second);
  second_work.wait();
  first_work.wait();
  EXPECT_TRUE(same(first, sum_of_values(5003, at::kFloat, 1)));
  EXPECT_TRUE(same(second, sum_of_values(5003, at::kFloat, 2)));
}

TEST_P(CommunicatorSuite, ControlPlaneWorksWhileDataIsUnderWay) {
  const int64_t count = 2000003;
  const at::Tensor tensor = values(rank(), count, at::kFloat);
  parallel::Work work = comm_->all_reduce(tensor);
  const int64_t sum = comm_->sum(int64_t{rank()} + 1);
  const std::string text = comm_->broadcast_bytes(rank() == size() - 1 ? "from the last" : "", size() - 1);
  comm_->barrier();
  work.wait();
  EXPECT_TRUE(work.done());
  EXPECT_EQ(sum, size() * (size() + 1) / 2);
  EXPECT_EQ(text, "from the last");
  EXPECT_TRUE(same(tensor, sum_of_values(count, at::kFloat)));
}

TEST_P(CommunicatorSuite, ScalarReductions) {
  EXPECT_EQ(comm_->sum(int64_t{rank()}), size() * (size() - 1) / 2);
  EXPECT_EQ(comm_->min(10 - rank()), 11 - size());
  EXPECT_EQ(comm_->max(10 + rank()), 9 + size());
  EXPECT_DOUBLE_EQ(comm_->sum(0.5 + rank()), 0.5 * size() + size() * (size() - 1) / 2.0);
  EXPECT_TRUE(comm_->all(true));
  EXPECT_FALSE(comm_->all(rank() != size() - 1));
  std::vector<double> pair{1.0 + rank(), -1.0 - rank()};
  comm_->all_reduce(std::span(pair), parallel::ReduceOp::kMax);
  EXPECT_EQ(pair, (std::vector<double>{1.0 * size(), -1.0}));
  comm_->all_reduce(std::span<int64_t>());  // of nothing
}

TEST_P(CommunicatorSuite, BytesOfDifferentLengths) {
  const auto text_of = [](int r) {
    return std::string(static_cast<std::size_t>(r * 1000), static_cast<char>('a' + r));
  };
  const std::vector<std::string> all = comm_->all_gather_bytes(text_of(rank()));
  EXPECT_EQ(all.size(), static_cast<std::size_t>(size()));
  for (std::size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r], text_of(static_cast<int>(r)));
  for (int root = 0; root < size(); ++root) {
    EXPECT_EQ(comm_->broadcast_bytes(rank() == root ? text_of(root) : "ignored", root), text_of(root));
  }
}

TEST_P(CommunicatorSuite, PendingSumsOverlapOtherOperations) {
  auto first = comm_->start_sum(rank() + 1);
  auto second = comm_->start_sum(int64_t{1} << 40);
  const at::Tensor tensor = values(rank(), 1001, at::kFloat);
  comm_->all_reduce(tensor).wait();
  EXPECT_EQ(comm_->max(rank()), size() - 1);
  EXPECT_EQ(second->get(), size() * (int64_t{1} << 40));
  EXPECT_EQ(first->get(), size() * (size() + 1) / 2);
  EXPECT_EQ(first->get(), size() * (size() + 1) / 2) << "asked again";
  comm_->start_sum(1).reset();  // dropped without asking
  EXPECT_EQ(comm_->start_sum(2)->get(), 2 * size());
}

TEST_P(CommunicatorSuite, CheckSameNamesTheRanksThatDiffer) {
  comm_->check_same("the same text", "abc");
  if (size() == 1) return;  // nobody to differ from
  std::string message;
  try {
    comm_->check_same("the configuration", rank() == size() - 1 ? "changed" : "abc");
  } catch (const base::Error& error) {
    message = error.what();
    EXPECT_EQ(error.code(), base::ExitCode::kDiverged);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
  }
  EXPECT_EQ(message, "the configuration is not the same on all ranks: rank " + std::to_string(size() - 1) +
                         " differs from rank 0");
}

TEST_P(CommunicatorSuite, SplitIntoEvenAndOddWithReversedOrder) {
  const auto part = comm_->split(rank() % 2, -rank());
  const int members = (size() - rank() % 2 + 1) / 2;
  EXPECT_EQ(part->size(), members);
  EXPECT_EQ(part->rank(), members - 1 - rank() / 2);
  const at::Tensor tensor = at::full({5}, rank(), at::kFloat);
  part->all_reduce(tensor).wait();
  int sum = 0;
  for (int r = rank() % 2; r < size(); r += 2) sum += r;
  EXPECT_TRUE(same(tensor, at::full({5}, sum, at::kFloat)));
  EXPECT_EQ(part->sum(int64_t{1}), members);
}

TEST_P(CommunicatorSuite, WrongTensorsAreRefused) {
  const auto refused = [](const std::function<parallel::Work()>& call) {
    try {
      call().wait();
    } catch (const base::Error& error) {
      return error.code() == base::ExitCode::kInternal;
    }
    return false;
  };
  const auto of = [](int64_t n, at::ScalarType type) { return at::empty({n}, type); };
  EXPECT_TRUE(refused([&] { return comm_->all_reduce(at::empty({4, 4}, at::kFloat).t()); }));
  EXPECT_TRUE(refused([&] { return comm_->all_reduce(of(4, at::kHalf)); }));
  EXPECT_TRUE(refused([&] { return comm_->all_reduce(at::Tensor()); }));
  EXPECT_TRUE(
      refused([&] { return comm_->reduce_scatter(of(4, at::kFloat), of(4 * size() + 1, at::kFloat)); }));
  EXPECT_TRUE(refused([&] { return comm_->all_gather(of(4 * size(), at::kFloat), of(4, at::kLong)); }));
  EXPECT_TRUE(refused([&] { return comm_->broadcast(of(4, at::kFloat), size()); }));
}

}  // namespace sft::testing
