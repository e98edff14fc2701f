#include "base/hang_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sft::base {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

const std::vector<std::string> kHosts{"h1", "h2", "h3"};

HangReport report(int rank, int64_t control, int64_t data, bool inside) {
  HangReport result;
  result.rank = rank;
  result.host = kHosts[static_cast<std::size_t>(rank)];
  result.section = "step";
  result.phase = inside ? "communication" : "backward";
  result.seconds = 42;
  result.limit = 30;
  result.step = 7;
  result.micro_step = 1;
  result.block = 4;
  result.control = {"all_reduce of integers", control, false};
  result.data = {"all_reduce", data, inside};
  result.stacks = "thread 1 (sft-dist)\n  main\n";
  return result;
}

TEST(HangReport, SurvivesJson) {
  const HangReport original = report(1, 12, 345, true);
  const auto read = hang_report_from_json(to_json(original));
  ASSERT_TRUE(read);
  EXPECT_EQ(to_json(*read), to_json(original));
  EXPECT_EQ(read->data.sequence, 345);
  EXPECT_TRUE(read->data.inside);
  EXPECT_EQ(read->stacks, original.stacks);
}

TEST(HangReport, TornTextIsNoReport) {
  const std::string whole = to_json(report(0, 1, 1, false));
  EXPECT_FALSE(hang_report_from_json(whole.substr(0, whole.size() / 2)));
  EXPECT_FALSE(hang_report_from_json("{}"));
}

TEST(HangVerdict, TheRankWithFewerCollectivesIsBehind) {
  const std::string verdict =
      hang_verdict({report(0, 12, 345, true), report(1, 12, 344, false), report(2, 12, 345, true)}, kHosts);
  EXPECT_THAT(verdict,
              AllOf(StartsWith("rank 1 (h2) is behind"), HasSubstr("phase backward"), HasSubstr("block 4"),
                    HasSubstr("outside of any collective"), HasSubstr("ranks 0 (h1), 2 (h3) waited"),
                    HasSubstr("inside all_reduce no. 345")));
}

TEST(HangVerdict, ASilentRankIsNamedBeforeOneThatIsBehind) {
  const std::string verdict =
      hang_verdict({report(0, 12, 345, true), report(1, 12, 344, false), std::nullopt}, kHosts);
  EXPECT_THAT(verdict, AllOf(StartsWith("rank 2 (h3) did not report"), HasSubstr("rank 0 (h1) waited")));
}

TEST(HangVerdict, AllAtTheSamePlaceBlamesWhatLiesBetween) {
  const std::string verdict =
      hang_verdict({report(0, 1, 5, true), report(1, 1, 5, true), report(2, 1, 5, true)}, kHosts);
  EXPECT_THAT(verdict, AllOf(HasSubstr("between them"), Not(HasSubstr("behind"))));
}

TEST(HangVerdict, OneRankAlone) {
  EXPECT_THAT(hang_verdict({report(0, 0, 0, false)}, {"h1"}), StartsWith("rank 0 (h1) does not come on"));
}

}  // namespace
}  // namespace sft::base
