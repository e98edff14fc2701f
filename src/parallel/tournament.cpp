#include "parallel/tournament.h"

namespace sft::parallel {

// The circle method: of an even number of players the last one stays where he is, and in round r the others i
// and j meet where i + j = r modulo their number; the one left over (2i = r) meets the last.

int num_rounds(int players) {
  return players < 2 ? 0 : players + players % 2 - 1;
}

int opponent(int players, int round, int player) {
  const int rounds = num_rounds(players), last = rounds;
  int other = 0;
  if (player == last) {
    other = round * ((rounds + 1) / 2) % rounds;  // (rounds + 1) / 2 is the inverse of 2
  } else {
    other = (round - player + rounds) % rounds;
    if (other == player) other = last;
  }
  return other < players ? other : -1;
}

}  // namespace sft::parallel
