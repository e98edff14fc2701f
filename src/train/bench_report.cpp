#include "bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace sft::train {
namespace {

using nlohmann::json;

constexpr double kGiga = 1e9, kTera = 1e12;

json shapes_json(const std::vector<GemmTime>& times) {
  json shapes = json::array();
  for (const GemmTime& time : times) {
    shapes.push_back({{"name", time.shape.name},
                      {"count", time.shape.count},
                      {"tokens", time.tokens},
                      {"in", time.shape.in},
                      {"out", time.shape.out},
                      {"is_head", time.shape.is_head},
                      {"share", time.shape.share},
                      {"flops", time.flops},
                      {"seconds", time.seconds}});
  }
  return shapes;
}

// Operations per second of a rank's products, each shape as often as its steps had it. The head sees targets
// only.
double weighted_rate(const json& rank, const std::string& compute) {
  double flops = 0, seconds = 0;
  for (const json& shape : rank["products"][compute]) {
    const auto rows =
        std::max<int64_t>(1, rank[shape["is_head"].get<bool>() ? "targets" : "tokens"].get<int64_t>());
    const double weight = static_cast<double>(rows) * shape["share"].get<double>() *
                          shape["count"].get<double>() / shape["tokens"].get<double>();
    flops += weight * shape["flops"].get<double>();
    seconds += weight * shape["seconds"].get<double>();
  }
  return flops / seconds;
}

template <typename Number>
Number total(const std::vector<json>& ranks, const char* key) {
  Number sum = 0;
  for (const json& rank : ranks) sum += rank[key].get<Number>();
  return sum;
}

json phase_shares(const std::vector<json>& ranks) {
  const double seconds = total<double>(ranks, "seconds");
  json shares = json::object();
  double other = 1.0;
  for (const auto& phase : ranks.front()["phases"].items()) {
    double sum = 0;
    for (const json& rank : ranks) sum += rank["phases"][phase.key()].get<double>();
    shares[phase.key()] = sum / seconds;
    other -= sum / seconds;
  }
  shares["other"] = other;
  return shares;
}

std::string counted(int64_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

// Those of one rank, and the rate of all ranks.
std::string products_text(const json& shapes, const std::string& compute, double rate) {
  std::string text = fmt::format(
      "\nmatrix products, {} (rank 0, forward and backward)\n  {:<24} {:>6} {:>7} {:>7} {:>7} {:>10}\n",
      compute, "", "count", "tokens", "in", "out", "GFLOP/s");
  for (const json& shape : shapes) {
    text += fmt::format("  {:<24} {:>6} {:>7} {:>7} {:>7} {:>10.1f}\n", shape["name"].get<std::string>(),
                        shape["count"].get<int64_t>(), shape["tokens"].get<int64_t>(),
                        shape["in"].get<int64_t>(), shape["out"].get<int64_t>(),
                        shape["flops"].get<double>() / shape["seconds"].get<double>() / kGiga);
  }
  return text +
         fmt::format("  {:<55} {:>10.1f}\n", "all ranks together, as often as in the steps", rate / kGiga);
}

std::string steps_text(const json& report) {
  const auto number = [&](const char* key) { return report[key].get<double>(); };
  const double ceiling = report["product_flops_per_second"][report["compute"].get<std::string>()];
  return fmt::format(
      "\nsteps\n  {:<24} {:>8.1f}  ({} tokens, {} with a target, in {:.2f} s)\n"
      "  {:<24} {:>8.1f}  useful; {:.1f} % of the products' {:.1f}\n"
      "  to have that share in the training log as mfu: peak_tflops_per_rank = {:.4g}\n",
      "tokens/s", number("tokens_per_second"), report["tokens"].get<int64_t>(),
      report["targets"].get<int64_t>(), number("seconds"), "GFLOP/s", number("flops_per_second") / kGiga,
      100 * number("fraction_of_ceiling"), ceiling / kGiga, ceiling / number("num_ranks") / kTera);
}

std::string phases_text(const json& phases) {
  std::string text = "\nwhere the time goes\n";
  for (const auto& phase : phases.items()) {
    if (phase.value().get<double>() == 0.0) continue;
    text += fmt::format("  {:<24} {:>8.1f} %\n", phase.key(), 100 * phase.value().get<double>());
  }
  return text;
}

std::string ranks_text(const json& ranks) {
  std::string text = "\nranks\n";
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    text += fmt::format("  {:<24} {:>8} tokens in {} micro-batches, peak memory {:.2f} GB\n",
                        fmt::format("{} ({})", rank, ranks[rank]["host"].get<std::string>()),
                        ranks[rank]["tokens"].get<int64_t>(), ranks[rank]["micro_batches"].get<int64_t>(),
                        ranks[rank]["peak_memory_bytes"].get<double>() / kGiga);
  }
  return text;
}

}  // namespace

json to_json(const RankBench& rank) {
  json result{{"host", rank.host},
              {"seconds", rank.seconds},
              {"micro_batches", rank.micro_batches},
              {"tokens", rank.work.num_tokens},
              {"targets", rank.work.num_targets},
              {"sum_squared_lengths", rank.work.sum_squared_lengths},
              {"peak_memory_bytes", rank.peak_memory_bytes}};
  for (std::size_t i = 0; i < base::kNumPhases; ++i)
    result["phases"][base::phase_name(static_cast<base::Phase>(i))] = rank.phases[i];
  for (const auto& [compute, times] : rank.products) result["products"][compute] = shapes_json(times);
  return result;
}

json bench_report(const BenchRun& run, const std::vector<json>& ranks) {
  double seconds = 0;
  for (const json& rank : ranks) seconds = std::max(seconds, rank["seconds"].get<double>());
  const metrics::StepWork work{.num_tokens = total<int64_t>(ranks, "tokens"),
                               .num_targets = total<int64_t>(ranks, "targets"),
                               .sum_squared_lengths = total<double>(ranks, "sum_squared_lengths")};
  json ceilings = json::object();
  for (const auto& products : ranks.front()["products"].items()) {
    double rate = 0;
    for (const json& rank : ranks) rate += weighted_rate(rank, products.key());
    ceilings[products.key()] = rate;
  }
  const double flops = metrics::training_flops(run.work, work), ceiling = ceilings[run.compute].get<double>();
  return {{"model", run.model},
          {"compute", run.compute},
          {"num_ranks", ranks.size()},
          {"threads_per_rank", run.threads_per_rank},
          {"steps", run.steps},
          {"seconds", seconds},
          {"tokens", work.num_tokens},
          {"targets", work.num_targets},
          {"sum_squared_lengths", work.sum_squared_lengths},
          {"flops", flops},
          {"tokens_per_second", metrics::tokens_per_second(work.num_tokens, seconds)},
          {"flops_per_second", flops / seconds},
          {"product_flops_per_second", ceilings},
          {"fraction_of_ceiling", metrics::model_flops_utilisation(flops, seconds, ceiling)},
          {"phases", phase_shares(ranks)},
          {"ranks", ranks}};
}

std::string bench_table(const json& report) {
  std::string text =
      fmt::format("{}: {} steps on {} x {}, {}\n", report["model"].get<std::string>(),
                  report["steps"].get<int64_t>(), counted(report["num_ranks"], "rank"),
                  counted(report["threads_per_rank"], "thread"), report["compute"].get<std::string>());
  for (const auto& ceiling : report["product_flops_per_second"].items())
    text += products_text(report["ranks"][0]["products"][ceiling.key()], ceiling.key(), ceiling.value());
  return text + steps_text(report) + phases_text(report["phases"]) + ranks_text(report["ranks"]);
}

}  // namespace sft::train
