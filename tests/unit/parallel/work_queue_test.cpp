#include "parallel/work_queue.h"

#include <gtest/gtest.h>

#include <future>
#include <stdexcept>
#include <string>
#include <vector>

namespace sft::parallel {
namespace work_queue_test {

class WorkQueueTest : public ::testing::TestWithParam<bool> {};

TEST_P(WorkQueueTest, RunsInTheOrderOfSubmission) {
  std::vector<int> order, expected;
  {
    WorkQueue queue(GetParam());
    std::vector<Work> works;
    for (int i = 0; i < 100; ++i) {
      expected.push_back(i);
      works.push_back(queue.submit([&order, i] { order.push_back(i); }));
    }
    works[99].wait();
    EXPECT_TRUE(works[0].done());
  }
  EXPECT_EQ(order, expected);
}

TEST_P(WorkQueueTest, ErrorComesOutOfWaitAndStopsWhatFollows) {
  WorkQueue queue(GetParam());
  bool ran = false;
  Work broken = queue.submit([] { throw std::runtime_error("the wire is cut"); });
  Work next = queue.submit([&ran] { ran = true; });
  const auto message = [](Work& work) {
    try {
      work.wait();
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(broken), "the wire is cut");
  EXPECT_EQ(message(broken), "the wire is cut") << "also when asked again";
  EXPECT_EQ(message(next), "the wire is cut");
  EXPECT_FALSE(ran);
}

INSTANTIATE_TEST_SUITE_P(ThreadedAndNot, WorkQueueTest, ::testing::Bool());

TEST(WorkQueue, SubmitDoesNotWaitAndDestructionOfWorkDoes) {
  std::promise<void> go;
  bool finished = false;
  WorkQueue queue(true);
  {
    Work work = queue.submit([&] {
      go.get_future().wait();
      finished = true;
    });
    EXPECT_FALSE(work.done());
    go.set_value();
  }
  EXPECT_TRUE(finished);
}

// As on a rank that throws while the others never join its collective: the message must get out, so nothing
// may wait.
TEST(WorkQueue, UnwindingDoesNotWaitForWorkUnderWay) {
  auto never = std::make_shared<std::promise<void>>();
  const auto leave_by_exception = [never] {
    WorkQueue queue(true);
    const Work work = queue.submit([never] { never->get_future().wait(); });
    throw std::runtime_error("elsewhere");
  };
  EXPECT_THROW(leave_by_exception(), std::runtime_error);
  never->set_value();  // lets the thread that was left behind end
}

}  // namespace work_queue_test
}  // namespace sft::parallel
