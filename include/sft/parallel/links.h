// What the network between the ranks does, measured.
#pragma once

#include <vector>

#include "sft/parallel/environment.h"

namespace sft::parallel {

// From this rank to another one.
struct Link {
  double latency_seconds = 0;   // one way, the best of many small messages
  double bytes_per_second = 0;  // of large messages one at a time, the best of several
  double clock_seconds = 0;     // the other's clock (CLOCK_REALTIME) minus this one's, good to the latency
};

// Collective. One Link for every rank; that of the rank itself is zero. Every pair is measured, in rounds in
// which each rank talks to one other: what is shared by pairs, such as a host's network card, is shared in the
// measurement too. Blocks until all ranks take part.
std::vector<Link> measure_links(const Topology& topology);

}  // namespace sft::parallel
