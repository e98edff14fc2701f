#include "parallel/pieces.h"

#include <gtest/gtest.h>

#include <climits>
#include <utility>
#include <vector>

namespace sft::parallel {
namespace pieces_test {

using Pieces = std::vector<std::pair<int64_t, int>>;

Pieces pieces_of(int64_t total, int64_t piece) {
  Pieces result;
  for_each_piece(total, piece, [&](int64_t offset, int count) { result.emplace_back(offset, count); });
  return result;
}

TEST(Pieces, NothingGivesNoPiece) {
  EXPECT_TRUE(pieces_of(0, 10).empty());
}

TEST(Pieces, LastPieceIsTheRest) {
  EXPECT_EQ(pieces_of(25, 10), (Pieces{{0, 10}, {10, 10}, {20, 5}}));
  EXPECT_EQ(pieces_of(20, 10), (Pieces{{0, 10}, {10, 10}}));
}

TEST(Pieces, CountsAboveIntMaxAreCoveredWithoutGapsByCountsThatFit) {
  const int64_t total = (int64_t{1} << 33) + 12345;
  int64_t covered = 0;
  for_each_piece(total, kPieceElements, [&](int64_t offset, int count) {
    ASSERT_EQ(offset, covered);
    ASSERT_GT(count, 0);
    covered += count;
  });
  EXPECT_EQ(covered, total);
}

TEST(Pieces, PieceThatMpiCannotCountIsAnError) {
  EXPECT_EQ(pieces_of(int64_t{INT_MAX} + 1, INT_MAX), (Pieces{{0, INT_MAX}, {INT_MAX, 1}}));
  EXPECT_THROW(pieces_of(int64_t{1} << 33, int64_t{1} << 32), std::overflow_error);
}

}  // namespace pieces_test
}  // namespace sft::parallel
