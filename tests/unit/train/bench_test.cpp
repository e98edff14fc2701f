#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "sft/base/file.h"
#include "support/tiny_engine.h"
#include "train/bench_report.h"
#include "train/gemm_rate.h"
#include "train/model_work.h"

namespace sft::train {
namespace bench_test {

using base::Phase;

// That work on a token.
double weights_of(const std::vector<LinearShape>& shapes) {
  double sum = 0;
  for (const LinearShape& shape : shapes)
    sum += shape.share * static_cast<double>(shape.count * shape.in * shape.out);
  return sum;
}

TEST(LinearShapes, AreAllLinearsOfEveryFamily) {
  int families = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SFT_SOURCE_DIR "/tests/golden/models")) {
    const std::filesystem::path file = entry.path() / "config.json";
    if (!std::filesystem::exists(file)) continue;
    const auto decoder =
        model::Decoder::create(model::spec_from_config_json(base::read_text(file), file.string()));
    const metrics::ModelWork work = model_work(*decoder);
    EXPECT_DOUBLE_EQ(weights_of(linear_shapes(decoder->spec(), work)),
                     static_cast<double>(work.block_linear_parameters + work.head_parameters))
        << file;
    ++families;
  }
  EXPECT_GE(families, 4);
}

TEST(TimeProducts, CountsTwoProductsWhereWeightsAreFrozen) {
  const std::vector<LinearShape> shapes{
      {"trained", 8, 16, 2, true}, {"frozen", 8, 16, 2, false}, {"head", 8, 32, 1, true, true}};
  const auto times = time_products(shapes, 10, 6, ops::ComputeDtype::kFp32, c10::kCPU);
  ASSERT_EQ(times.size(), 3U);
  EXPECT_EQ(times[0].flops, 3 * 2 * 10 * 8 * 16);
  EXPECT_EQ(times[1].flops, 2 * 2 * 10 * 8 * 16);
  EXPECT_EQ(times[2].flops, 3 * 2 * 6 * 8 * 32) << "the head sees targets";
  for (const GemmTime& time : times) EXPECT_GT(time.seconds, 0);
}

// Two ranks with numbers made up so that the results can be seen.
TEST(BenchReport, FiguresFollowFromWhatRanksMeasured) {
  RankBench first;
  first.host = "a";
  first.seconds = 4;
  first.phases[static_cast<std::size_t>(Phase::kForward)] = 1;
  first.phases[static_cast<std::size_t>(Phase::kBackward)] = 2;
  first.micro_batches = 3;
  first.work = {.num_tokens = 100, .num_targets = 50, .sum_squared_lengths = 2000};
  // 100 tokens in 10 products of 10: 2e9 operations in 1 s each, 1e9 in 0.1 s for 5 targets of the 50.
  first.products["fp32"] = {{{"layers", 4, 8, 1, true}, 10, 2e9, 1.0},
                            {{"head", 4, 8, 1, true, true}, 5, 1e9, 0.1}};
  RankBench second = first;
  second.host = "b";
  second.phases[static_cast<std::size_t>(Phase::kCommunication)] = 1;
  second.work = {.num_tokens = 60, .num_targets = 50, .sum_squared_lengths = 1000};
  const BenchRun run{.model = "m",
                     .compute = "fp32",
                     .steps = 2,
                     .threads_per_rank = 1,
                     .work = {.block_linear_parameters = 1000,
                              .head_parameters = 10,
                              .num_layers = 1,
                              .num_heads = 1,
                              .head_dim = 2}};
  const nlohmann::json report = bench_report(run, {to_json(first), to_json(second)});

  EXPECT_EQ(report["tokens"], 160);
  EXPECT_EQ(report["flops"], 6.0 * 1000 * 160 + 6.0 * 10 * 100 + 6.0 * 2 * 3000);
  EXPECT_EQ(report["tokens_per_second"], 40.0);
  const double ceiling =
      (10 * 2e9 + 10 * 1e9) / (10 * 1.0 + 10 * 0.1) + (6 * 2e9 + 10 * 1e9) / (6 * 1.0 + 10 * 0.1);
  EXPECT_DOUBLE_EQ(report["product_flops_per_second"]["fp32"], ceiling);
  EXPECT_DOUBLE_EQ(report["fraction_of_ceiling"], report["flops"].get<double>() / 4 / ceiling);
  EXPECT_DOUBLE_EQ(report["phases"]["forward"], 2.0 / 8);
  EXPECT_DOUBLE_EQ(report["phases"]["backward"], 4.0 / 8);
  EXPECT_DOUBLE_EQ(report["phases"]["communication"], 1.0 / 8);
  EXPECT_DOUBLE_EQ(report["phases"]["other"], 1.0 / 8);
  EXPECT_EQ(report["phases"]["data"], 0.0);

  const std::string table = bench_table(report);
  for (const char* part :
       {"m: 2 steps on 2 ranks x 1 thread, fp32", "backward", "50.0 %", "0 (a)", "1 (b)", "40.0"})
    EXPECT_NE(table.find(part), std::string::npos) << part << " in\n" << table;
  EXPECT_EQ(table.find("checkpoint"), std::string::npos) << "a phase without time";
}

TEST(StepWork, SquaresTheLengthsOfSegments) {
  std::mt19937 random(1);
  data::TokenRow packed = testing::random_row(random, 7, 0);
  packed.segment_lengths = {3, 4};
  data::Window window;
  window.micro_batches = {data::pack({packed, testing::random_row(random, 5, 2)}), data::pack({})};
  window.num_tokens = 12;
  window.num_targets = 9;
  const metrics::StepWork work = step_work(window);
  EXPECT_EQ(work.num_tokens, 12);
  EXPECT_EQ(work.num_targets, 9);
  EXPECT_EQ(work.sum_squared_lengths, 9 + 16 + 25);
}

}  // namespace bench_test
}  // namespace sft::train
