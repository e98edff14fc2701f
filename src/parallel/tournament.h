// Who meets whom when everybody meets everybody, one at a time.
#pragma once

namespace sft::parallel {

// Rounds it takes: 0 for one player.
int num_rounds(int players);

// Whom `player` meets in `round`; -1: nobody. Symmetric, and over all rounds everybody exactly once.
int opponent(int players, int round, int player);

}  // namespace sft::parallel
