#include "parallel/tournament.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace sft::parallel {
namespace tournament_test {

TEST(Tournament, EverybodyMeetsEverybodyOnceAndNobodyTwoAtATime) {
  for (int players = 1; players <= 13; ++players) {
    std::set<std::pair<int, int>> met;
    for (int round = 0; round < num_rounds(players); ++round) {
      for (int player = 0; player < players; ++player) {
        const int other = opponent(players, round, player);
        if (other < 0) continue;
        ASSERT_LT(other, players);
        ASSERT_NE(other, player);
        EXPECT_EQ(opponent(players, round, other), player) << players << " players, round " << round;
        EXPECT_TRUE(met.insert({player, other}).second) << player << " meets " << other << " again";
      }
    }
    EXPECT_EQ(met.size(), static_cast<std::size_t>(players * (players - 1)));
  }
}

}  // namespace tournament_test
}  // namespace sft::parallel
