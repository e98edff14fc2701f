#include "sft/parallel/links.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/mpi_test.h"

namespace sft::parallel {
namespace {

TEST(Links, EveryPairIsMeasuredAndBothEndsAgree) {
  const Topology& topology = testing::env().topology();
  const std::vector<Link> links = measure_links(topology);
  EXPECT_EQ(links.size(), static_cast<std::size_t>(topology.world_size));
  for (int other = 0; other < topology.world_size; ++other) {
    const Link& link = links[static_cast<std::size_t>(other)];
    if (other == topology.rank) {
      EXPECT_EQ(link.latency_seconds, 0);
      EXPECT_EQ(link.bytes_per_second, 0);
    } else {
      EXPECT_GT(link.latency_seconds, 0);
      EXPECT_GT(link.bytes_per_second, 0);
      EXPECT_LT(std::abs(link.clock_seconds), 1) << "ranks on one machine have one clock";
    }
  }
  // What one end says of the pair, the other says too.
  for (int a = 0; a < topology.world_size; ++a) {
    for (int b = a + 1; b < topology.world_size; ++b) {
      const auto said = [&](int rank, int other, double Link::*figure) {
        return testing::world().sum(rank == topology.rank ? links[static_cast<std::size_t>(other)].*figure
                                                          : 0.0);
      };
      EXPECT_EQ(said(a, b, &Link::latency_seconds), said(b, a, &Link::latency_seconds));
      EXPECT_EQ(said(a, b, &Link::bytes_per_second), said(b, a, &Link::bytes_per_second));
      EXPECT_EQ(said(a, b, &Link::clock_seconds), -said(b, a, &Link::clock_seconds));
    }
  }
}

}  // namespace
}  // namespace sft::parallel
